"""Bytes on each chip: of described arrays, of compiled programs, and of refused ones.

The compiler reports the memory of a program, even of one that it refuses as too large.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from recallm_jax.planning.chips import GIB

_UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": GIB, "T": 1 << 40}
_SIZE = r"([\d.]+)([BKMGT])"
# The message of libtpu 0.0.52, whose "temporaries" include the arguments, and an older one.
_REFUSALS = (
    re.compile(rf"memory required for HLO temporaries \({_SIZE}\) exceeds .* HBM \({_SIZE}\)"),
    re.compile(rf"memory space hbm\. Used {_SIZE} of {_SIZE} hbm"),
)
_VALUE = re.compile(
    r"value: <\d+ (?P<name>[\w.-]+).*\(size=(?P<size>\d+),offset=(?P<offset>\d+)\): (?P<shape>\S+)"
)


def bytes_per_chip(tree: Any) -> int:
    """Return the bytes of described arrays on each chip, without the layout's padding.

    Args:
      tree: a tree of `jax.ShapeDtypeStruct`s. One without a sharding lies whole on each chip.
    """
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf).update(sharding=leaf.sharding)
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Allocation:
    """A large temporary array of a program: its bytes, its type, and the operator that makes it."""

    size: int
    shape: str
    operator: str


def largest_temporaries(assignment: str, hlo: str, count: int = 4) -> tuple[Allocation, ...]:
    """Return the largest temporary arrays of a program.

    Args:
      assignment: the compiler's dump of buffer addresses; arrays that share an address in turn
        count once.
      hlo: the program's text, which names the operators.
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


def parse_refusal(message: str) -> int | None:
    """Return the bytes that a refused program needs, arguments included.

    Args:
      message: a RESOURCE_EXHAUSTED error about HBM; for any other message the result is None.
    """
    for pattern in _REFUSALS:
        if found := pattern.search(message):
            return round(float(found[1]) * _UNITS[found[2]])
    return None


@dataclasses.dataclass(frozen=True)
class Memory:
    """The bytes in a chip's HBM while a program runs.

    Attributes:
      arguments: the program's arguments, by part, without the layout's padding.
      resident: arrays that the job keeps and the program does not read, by part.
      temporaries: temporary arrays; for a refused program everything but its arguments, so outputs
        and code too.
      padding: the padding of the arguments in the compiler's layout; 0 for a refused program.
      outputs: outputs that do not reuse an argument's memory.
      code: the program itself.
    """

    arguments: Mapping[str, int]
    resident: Mapping[str, int]
    temporaries: int
    padding: int = 0
    outputs: int = 0
    code: int = 0

    @property
    def total(self) -> int:
        """All bytes."""
        held = sum(self.arguments.values()) + sum(self.resident.values())
        return held + self.padding + self.outputs + self.temporaries + self.code


def compiled_memory(
    analysis: Any, arguments: Mapping[str, int], resident: Mapping[str, int]
) -> Memory:
    """Return a program's memory by the compiler's `memory_analysis`."""
    return Memory(
        arguments=arguments,
        resident=resident,
        padding=max(0, analysis.argument_size_in_bytes - sum(arguments.values())),
        outputs=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def moving_memory(memory: Memory, caches: Mapping[str, int]) -> Memory:
    """Return the memory of a program that decodes, or what decoding takes while its caches move.

    The host makes the caches longer, and leaves out rows, one array after another
    (`models/kv_cache.py`). So besides all keys and values, the largest of their arrays may be there
    twice, when the prefill's temporary arrays are not.

    Args:
      caches: the bytes of the keys and values of prompts, and of responses.
    """
    moving = sum(caches.values()) + max(caches.values(), default=0) // 2
    return dataclasses.replace(memory, temporaries=max(memory.temporaries, moving))


def refused_memory(
    needed: int, arguments: Mapping[str, int], resident: Mapping[str, int]
) -> Memory:
    """Return the memory of a refused program, which needs so many bytes."""
    return Memory(arguments, resident, temporaries=max(0, needed - sum(arguments.values())))
