"""Bytes on each chip: of arrays that are only described, of compiled programs, and of refused ones.

The compiler reports what a program takes, or says how much a program that does not fit would take.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

GIB = 1 << 30
_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": GIB, "T": 1 << 40}
_SIZE = r"([\d.]+)([BKMGT])"
# Of libtpu 0.0.52, whose "temporaries" hold the arguments too; and an older form.
_REFUSALS = (
    re.compile(rf"memory required for HLO temporaries \({_SIZE}\) exceeds .* HBM \({_SIZE}\)"),
    re.compile(rf"memory space hbm\. Used {_SIZE} of {_SIZE} hbm"),
)
_VALUE = re.compile(
    r"value: <\d+ (?P<name>[\w.-]+).*\(size=(?P<size>\d+),offset=(?P<offset>\d+)\): (?P<shape>\S+)"
)


def bytes_per_chip(tree: Any) -> int:
    """Return the bytes that each chip holds of abstract arrays, without the layout's padding.

    Args:
      tree: of `jax.ShapeDtypeStruct`s with shardings.
    """
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), leaf.dtype)).update(
            shape=(*leaf.shape, 2), sharding=leaf.sharding
        )
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Allocation:
    """One of the largest temporary arrays of a program: bytes, type, and what makes it."""

    size: int
    shape: str
    operator: str


def largest_temporaries(assignment: str, hlo: str, count: int = 4) -> tuple[Allocation, ...]:
    """Return the largest arrays of a program that are no arguments.

    Args:
      assignment: the compiler's dump of where arrays lie; arrays that take turns in one place are
        counted once.
      hlo: the program's text, which says what makes them.
    """
    places: dict[tuple[str, str], tuple[str, str]] = {}
    temporary = False
    for line in assignment.splitlines():
        if line.startswith("allocation "):
            # Memories other than HBM have a colour.
            temporary = "preallocated-temp" in line and "color" not in line
        elif line.startswith("Total bytes"):
            break
        elif temporary and (value := _VALUE.search(line)):
            places.setdefault((value["size"], value["offset"]), (value["shape"], value["name"]))
    largest = sorted(places.items(), key=lambda item: -int(item[0][0]))[:count]
    found = []
    for (size, _), (shape, name) in largest:
        made = re.search(rf"%?{re.escape(name)} = .*op_name=\"([^\"]*)\"", hlo)
        found.append(Allocation(int(size), shape, made[1] if made else name))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What the compiler says of a program that takes more than the chip has, in bytes.

    Attributes:
      used: what it takes, arguments included.
      limit: what it may take.
    """

    used: int
    limit: int


def parse_refusal(message: str) -> Refusal | None:
    """Return what a RESOURCE_EXHAUSTED error says about HBM; None if it says something else."""
    for pattern in _REFUSALS:
        if found := pattern.search(message):
            return Refusal(_bytes(found[1], found[2]), _bytes(found[3], found[4]))
    return None


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * _UNITS[unit])


@dataclasses.dataclass(frozen=True)
class Memory:
    """What lies in a chip's HBM while a program runs, in bytes.

    Attributes:
      arguments: of the program, by part; without the layout's padding.
      resident: what the job holds meanwhile and the program does not read, by part.
      padding: of the arguments, as the compiler lays them out; 0 where it refused the program.
      outputs: those that take no argument's place.
      temporaries: or, where the compiler refused the program, all that it takes beside its
        arguments, the outputs and the code among it.
      code: of the program.
    """

    arguments: Mapping[str, int]
    resident: Mapping[str, int]
    padding: int
    outputs: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        held = sum(self.arguments.values()) + sum(self.resident.values())
        return held + self.padding + self.outputs + self.temporaries + self.code


def compiled_memory(
    analysis: Any, arguments: Mapping[str, int], resident: Mapping[str, int]
) -> Memory:
    """Return the memory of a program from the compiler's `memory_analysis`."""
    return Memory(
        arguments=arguments,
        resident=resident,
        padding=max(0, analysis.argument_size_in_bytes - sum(arguments.values())),
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def refused_memory(
    refusal: Refusal, arguments: Mapping[str, int], resident: Mapping[str, int]
) -> Memory:
    """Return the memory that a program asks for which the compiler refused."""
    return Memory(
        arguments=arguments,
        resident=resident,
        padding=0,
        outputs=0,
        temporaries=max(0, refusal.used - sum(arguments.values())),
        code=0,
    )
