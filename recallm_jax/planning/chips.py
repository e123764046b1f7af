"""TPU chips, and the devices of a topology of chips."""

import dataclasses
import importlib.util
import itertools
import math
import os
import re

import jax
from jax.experimental import topologies

from recallm_jax.runtime.errors import UserError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The properties of one chip, published by Google (cloud.google.com/tpu/docs/v5e, v5p, v6e).

    Attributes:
      hbm: bytes that the compiler lets a program use, arguments included; the published sizes
        (16, 95 and 32 GB) are a little larger.
      peak_flops: bfloat16 floating-point operations a second.
      hbm_bandwidth: bytes a second.
      ici_bandwidth: bytes a second that the chip sends to others. The published rate is twice as
        high because it counts both directions.
      shapes: the names of the shapes that Google rents out.
      described: the shapes in words.
      example: the name of a topology.
    """

    hbm: int
    peak_flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    shapes: frozenset[str]
    described: str
    example: str


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
# Up to 4 x 4 x 4: parts of one cube. Beyond: several cubes side by side.
_PARTS = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_CUBES = frozenset(
    "x".join(map(str, sides))
    for sides in itertools.combinations_with_replacement(range(4, 29, 4), 3)
    # A pod has 16 x 20 x 28 chips, a slice at most 6,144 of them.
    if math.prod(sides) <= 6144
    and all(side <= most for side, most in zip(sides, (16, 20, 28), strict=True))
)
_IN_WORDS = f"{', '.join(_PARTS)}, and from 4x4x4 to 16x16x24 with sides of 4, 8, 12 …, in order"

CHIPS = {
    "v5e": Chip(
        int(15.75 * GIB), 197e12, 800e9, 200e9, frozenset(_FLAT), ", ".join(_FLAT), "v5e:4x4"
    ),
    "v5p": Chip(
        int(95.73 * GIB), 459e12, 2765e9, 600e9, _CUBES.union(_PARTS), _IN_WORDS, "v5p:2x2x2"
    ),
    "v6e": Chip(
        int(31.24 * GIB), 918e12, 1600e9, 400e9, frozenset(_FLAT), ", ".join(_FLAT), "v6e:4x4"
    ),
}
# JAX's names of these chips (`jax.Device.device_kind`); they differ between versions of libtpu.
_TPU_KINDS = {
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
# NVIDIA's data sheets: bfloat16 operations a second, of dense matrices.
_GPU_PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
_NAME = re.compile(r"(\w+):(\d+(x\d+)+)")


def chip_of(topology: str) -> Chip:
    """Return the chip of a topology such as "v5p:4x4x4".

    Raises:
      UserError: the name is malformed, the chip is unknown, or it does not come in that shape.
    """
    match = _NAME.fullmatch(topology)
    if match is None or match[1] not in CHIPS:
        raise UserError(
            f"--topology={topology} does not name a topology; give a chip and its shape, such as "
            f"{', '.join(chip.example for chip in CHIPS.values())}"
        )
    chip = CHIPS[match[1]]
    if match[2] not in chip.shapes:
        raise UserError(
            f"--topology={topology} does not exist: {match[1]} comes as {chip.described}; give one "
            f"of these, such as {chip.example}"
        )
    return chip


def peak_flops(device_kind: str) -> float | None:
    """Return a device's peak of bfloat16 operations a second; None if it is not known.

    Args:
      device_kind: JAX's name of the device (`jax.Device.device_kind`).
    """
    if device_kind in _TPU_KINDS:
        return CHIPS[_TPU_KINDS[device_kind]].peak_flops
    return _GPU_PEAKS.get(device_kind)


def topology_devices(topology: str, slices: int = 1) -> list[jax.Device]:
    """Return the devices of a topology for the TPU compiler; this machine need not have any.

    Args:
      slices: the number of slices with this topology, each with its own interconnect.

    Raises:
      UserError: the topology does not exist, or the compiler is not installed.
    """
    chip = chip_of(topology)
    if slices < 1:
        raise UserError(f"--slices={slices}: give at least 1")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "libtpu, the TPU's compiler, is not installed; "
            "run pip install -e '.[tpu-plan]' -c constraints.txt"
        )
    # The compiler must not look for a TPU here, and several compilers may run at the same time.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    several = {"num_slices": slices} if slices > 1 else {}
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu", **several).devices)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--topology={topology} does not exist ({reason}); give a shape that the chip comes "
            f"in, such as {chip.example}"
        ) from None
