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
    """One of the largest arrays of a program that does not fit."""

    size: int
    shape: str
    operator: str


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What the compiler says of a program that takes more than the chip has, in bytes.

    Attributes:
      used: what it takes.
      limit: what it may take.
    """

    used: int
    limit: int
    largest: tuple[Allocation, ...]


def parse_refusal(message: str) -> Refusal | None:
    """Return what a RESOURCE_EXHAUSTED error says about HBM; None if it says something else."""
    found = re.search(rf"memory space hbm\. Used {_SIZE} of {_SIZE} hbm", message)
    if found is None:
        return None
    largest = []
    for text in re.split(r"\n\s*\d+\. Size: ", message)[1:]:
        size = re.match(_SIZE, text)
        shape = re.search(r"Shape: (\S+)", text)
        operator = re.search(r'op_name="([^"]*)"', text)
        if size:
            largest.append(
                Allocation(
                    _bytes(*size.groups()),
                    shape[1] if shape else "",
                    operator[1] if operator else "",
                )
            )
    used, limit = _bytes(found[1], found[2]), _bytes(found[3], found[4])
    return Refusal(used, limit, tuple(largest))


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
