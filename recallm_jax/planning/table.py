"""A plan as Markdown tables and as rows of JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from recallm_jax.planning.chips import GIB, Chip
from recallm_jax.planning.compiling import Planned
from recallm_jax.planning.cost import LeastTime, table_rows
from recallm_jax.planning.dry_run import StageWork
from recallm_jax.planning.estimate import at_least
from recallm_jax.planning.programs import BATCH, GRADIENT, OPTIMISER, OTHERS, PARAMETERS, ROLLOUT

PARTS = (PARAMETERS, OPTIMISER, GRADIENT, OTHERS, ROLLOUT, BATCH)


def memory_table(plan: Sequence[Planned], chip: Chip) -> str:
    """Return a table of the memory in a chip's HBM, in GiB, with a row for each program."""
    head = ("program", *PARTS, "outputs", "temporaries", "of these caches", "code", "total", "HBM")
    rows = []
    for planned in plan:
        memory = planned.memory
        held = _held(planned)
        # Padding does not belong to one part.
        sizes = [held[name] for name in PARTS]
        sizes += [memory.outputs, memory.temporaries + memory.padding]
        sizes += [sum(planned.caches.values()), memory.code, memory.total, chip.hbm]
        verdict = "fits" if not planned.missing(chip) else "does not fit"
        rows.append((planned.program.name, *(_gib(size) for size in sizes), verdict))
    return _table((*head, ""), rows)


def work_table(plan: Sequence[Planned], chip: Chip, num_chips: int) -> str:
    """Return a table of arithmetic, traffic and compile time, with a row for each program."""
    head = (
        "program",
        "runs a step",
        "model PFLOP",
        "executed PFLOP",
        "compiler's count, loops once, TFLOP a chip",
        "sent a chip, GB",
        "compiled in s",
        "at least s (estimate)",
    )
    rows = []
    for planned in plan:
        program = planned.program
        bound = at_least(program, chip, num_chips, traffic=planned.traffic)
        flops = planned.compiler_flops
        rows.append(
            (
                program.name,
                str(program.runs),
                f"{program.work.model / 1e15:.4g}",
                f"{program.work.executed / 1e15:.4g}",
                "-" if flops is None else f"{flops / 1e12:.3g}",
                _sent(planned),
                f"{planned.compile_seconds:.0f}",
                f"{bound.seconds:.3g}",
            )
        )
    return _table(head, rows)


def time_table(least: LeastTime) -> str:
    """Return a table of the least time of a run, with a column for each kind of lengths."""
    rows = [
        (name, *(f"{_number(value)} {unit}".rstrip() for value in values))
        for name, values, unit in table_rows(least)
    ]
    return _table(("at least (estimate)", *(f"{name} lengths" for name in least.times)), rows)


def works_table(works: Sequence[StageWork]) -> str:
    """Return a table of the work of a run's stages."""
    head = ("stage", "steps", "prompts", "responses", "tokens", "TFLOP", "least s a step")
    return _table(
        head,
        [
            (
                work.name,
                f"{work.steps:,}",
                f"{work.prompts:,}",
                f"{work.responses:,}",
                f"{work.tokens:,}",
                _number(work.operations / 1e12),
                "not known" if work.least_seconds is None else _number(work.least_seconds),
            )
            for work in works
        ],
    )


def row(planned: Planned, chip: Chip, num_chips: int, advice: Sequence[str]) -> dict[str, Any]:
    """Return everything about a program for JSON; sizes are bytes on each chip."""
    program, memory = planned.program, planned.memory
    bound = at_least(program, chip, num_chips, traffic=planned.traffic)
    sent = planned.traffic
    return {
        "program": program.name,
        "kind": program.kind,
        "runs_a_step": program.runs,
        "fits": not planned.missing(chip),
        "missing": planned.missing(chip),
        "advice": list(advice),
        "refused_by_compiler": planned.refused,
        "memory": {
            "arguments": dict(memory.arguments),
            "resident": dict(memory.resident),
            "padding_of_arguments": memory.padding,
            "outputs": memory.outputs,
            "temporaries": memory.temporaries,
            "caches_among_temporaries": dict(planned.caches),
            "code": memory.code,
            "total": memory.total,
            "hbm": chip.hbm,
        },
        "largest": [
            {"size": one.size, "shape": one.shape, "operator": one.operator}
            for one in planned.largest
        ],
        "flops": {
            "model_all_chips": program.work.model,
            "executed_all_chips": program.work.executed,
            "compiler_a_chip_loops_once": planned.compiler_flops,
        },
        "sent": {
            "once": sent.once,
            "each_round": sent.each_round,
            "rounds_at_most": program.rounds,
            "total": sent.total(program.rounds),
        },
        "compile_seconds": round(planned.compile_seconds, 1),
        "at_least_seconds_estimate": {
            "arithmetic": bound.arithmetic,
            "memory": bound.memory,
            "interconnect": bound.interconnect,
        },
    }


def verdict(planned: Planned, chip: Chip, advice: Sequence[str]) -> str:
    """Return one line about a program that does not fit."""
    missing = f"{planned.missing(chip) / GIB:.2f}"
    line = f"{planned.program.name} does not fit: needs {missing} GiB more a chip"
    if planned.largest:
        first = planned.largest[0]
        line += f" (largest array: {first.size / GIB:.2f} GiB, {first.shape} {first.operator})"
    return f"{line}. What would make it fit: {'; or '.join(advice)}."


def _held(planned: Planned) -> Mapping[str, int]:
    memory = planned.memory
    return {name: memory.arguments.get(name, 0) + memory.resident.get(name, 0) for name in PARTS}


def _sent(planned: Planned) -> str:
    total = planned.traffic.total(planned.program.rounds)
    kinds = [f"{kind} {size / 1e9:.3g}" for kind, size in total.items() if size]
    return ", ".join(kinds) or "nothing"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _gib(size: int) -> str:
    return "0" if not size else f"{size / GIB:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])
