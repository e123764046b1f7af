"""Compiling the programs of a plan, and what the compiler says of each."""

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from recallm_jax.planning.chips import Chip
from recallm_jax.planning.hlo import Traffic, traffic
from recallm_jax.planning.memory import (
    Allocation,
    Memory,
    bytes_per_chip,
    compiled_memory,
    parse_refusal,
    refused_memory,
)
from recallm_jax.planning.programs import Program


@dataclasses.dataclass(frozen=True)
class Planned:
    """A program, compiled or refused.

    Attributes:
      memory: in bytes a chip.
      caches: bytes a chip of the keys and values among the temporaries, by what they belong to.
      refused: whether the compiler says that the program alone is too large.
      largest: its largest arrays, if so.
      compiler_flops: operations a chip as the compiler counts them, loops once; None if refused.
      traffic: what a chip sends; None if refused.
    """

    program: Program
    memory: Memory
    caches: Mapping[str, int]
    refused: bool
    largest: tuple[Allocation, ...]
    compiler_flops: float | None
    traffic: Traffic | None
    compile_seconds: float

    def missing(self, chip: Chip) -> int:
        """Return the bytes that the chip lacks, 0 if the program fits."""
        return max(0, self.memory.total - chip.hbm)


def plan_program(program: Program) -> Planned:
    """Compile a program for the devices of its mesh."""
    arguments = {name: bytes_per_chip(tree) for name, tree in program.arguments.items()}
    resident = {name: bytes_per_chip(tree) for name, tree in program.resident.items()}
    caches = {name: bytes_per_chip(tree) for name, tree in (program.caches or {}).items()}
    started = time.perf_counter()
    try:
        compiled, text = _compiled(program.lower())
    except jax.errors.JaxRuntimeError as error:
        refusal = parse_refusal(str(error))
        if refusal is None:
            raise
        return Planned(
            program,
            refused_memory(refusal, arguments, resident),
            caches,
            refused=True,
            largest=refusal.largest,
            compiler_flops=None,
            traffic=None,
            compile_seconds=time.perf_counter() - started,
        )
    seconds = time.perf_counter() - started
    return Planned(
        program,
        compiled_memory(compiled.memory_analysis(), arguments, resident),
        caches,
        refused=False,
        largest=(),
        compiler_flops=_flops(compiled.cost_analysis()),
        traffic=traffic(text),
        compile_seconds=seconds,
    )


def _compiled(lowered: Any) -> tuple[Any, str]:
    """Return the compiled program and its text.

    The compiler writes the text itself: asked of the compiled program (`as_text`) it can't be read
    back where an operation runs beside several others (JAX 0.10.2, libtpu 0.0.52).
    """
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = lowered.compile(compiler_options=options)
        (path,) = Path(folder).glob("*.after_optimizations.txt")
        return compiled, path.read_text(encoding="utf-8")


def _flops(analysis: Any) -> float | None:
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return float(analysis["flops"]) if analysis and "flops" in analysis else None
