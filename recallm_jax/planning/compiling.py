"""Compile the programs of a plan, and read what the compiler reports about each."""

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
    largest_temporaries,
    moving_memory,
    parse_refusal,
    refused_memory,
)
from recallm_jax.planning.programs import Program


@dataclasses.dataclass(frozen=True)
class Planned:
    """A program, compiled or refused.

    Attributes:
      memory: the bytes on each chip; if it decodes, also while its caches move.
      caches: bytes a chip of the keys and values among the temporaries, for prompts and responses.
      refused: whether the compiler finds the program alone too large.
      largest: the largest temporary arrays.
      compiler_flops: operations a chip by the compiler's count, which takes each loop once; None
        if refused.
      traffic: the bytes that a chip sends.
    """

    program: Program
    memory: Memory
    caches: Mapping[str, int]
    refused: bool
    largest: tuple[Allocation, ...]
    compiler_flops: float | None
    traffic: Traffic
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
    with tempfile.TemporaryDirectory() as folder:
        # The compiler writes the text to files. `as_text` of the compiled program fails when
        # operations run in parallel (JAX 0.10.2, libtpu 0.0.52).
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled, needed = None, None
        try:
            compiled = program.lower().compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            needed = parse_refusal(str(error))
            if needed is None:
                raise
        seconds = time.perf_counter() - started
        text = _dumped(folder, "after_optimizations.txt")
        assignment = _dumped(folder, "after_optimizations-buffer-assignment.txt")
    if compiled is None:
        assert needed is not None
        memory = refused_memory(needed, arguments, resident)
    else:
        memory = compiled_memory(compiled.memory_analysis(), arguments, resident)
    return Planned(
        program,
        moving_memory(memory, caches),
        caches,
        refused=needed is not None,
        largest=largest_temporaries(assignment, text),
        compiler_flops=None if compiled is None else _flops(compiled.cost_analysis()),
        traffic=traffic(text),
        compile_seconds=seconds,
    )


def _dumped(folder: str, kind: str) -> str:
    """Return a text that the compiler wrote about a program; "" if it stopped before."""
    return "".join(path.read_text(encoding="utf-8") for path in Path(folder).glob(f"*.{kind}"))


def _flops(analysis: Any) -> float | None:
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return float(analysis["flops"]) if analysis and "flops" in analysis else None
