"""Compile a run for TPUs that need not be here: does it fit, and what would make it fit?

    python -m recallm_jax.plan --config=configs/qwen2_5_7b.py --topology=v5p:4x4x4

The TPU compiler itself (libtpu, `pip install -e '.[tpu-plan]' -c constraints.txt`) compiles the
programs of `train` and `evaluate` for the named topology: `v5e:4x4`, `v5p:4x4x4`, `v6e:8x8` and so
on. The weights need not be here. For each program the tables show how much of a chip's HBM is in
use while it runs, with all else that the run keeps there; its arithmetic; the bytes that chips send
to each other; and the time to compile it. The exit code is 1 if something does not fit.

A last table has the least time of a step and of the run, if chips work at their peak rates and
every response has its full length. `--response_lengths=mean:1000` adds a column for responses that
have 1,000 tokens in the mean, and `--response_lengths=runs/one` for those of a run.
`--price_per_chip_hour=4.2` adds the cost of the run. `--no_compile` prints this table alone.

If a config has sizes for several topologies (its variant `topology`), the job takes the sizes for
this topology, unless `--config.mesh.…` sets them. `--slices=2` plans for two slices of the
topology; `config.mesh.data` is split over them.
"""

import functools
import importlib.metadata
import json
import math
import sys
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from recallm_jax.config.load import (
    JobParser,
    check_evaluation_mesh,
    check_training_mesh,
    parse_config,
    path_argument,
)
from recallm_jax.planning import cost, table
from recallm_jax.planning.abstract import abstract_context
from recallm_jax.planning.advice import advice
from recallm_jax.planning.chips import GIB, chip_of, topology_devices
from recallm_jax.planning.compiling import Planned, plan_program
from recallm_jax.planning.flops import num_parameters
from recallm_jax.planning.given_lengths import given_lengths
from recallm_jax.planning.hlo import Traffic
from recallm_jax.planning.lengths import LengthDistribution
from recallm_jax.planning.programs import programs
from recallm_jax.runtime.errors import UserError, run_job
from recallm_jax.runtime.machine import describe_machine
from storage.files import as_path, make_folder, write_whole

EXIT_DOES_NOT_FIT = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    fits: list[bool] = []
    code = run_job(lambda argv: fits.append(_run(argv)), argv)
    return EXIT_DOES_NOT_FIT if fits == [False] else code


def _run(argv: Sequence[str]) -> bool:
    parser = JobParser("python -m recallm_jax.plan", __doc__)
    parser.add_argument("--topology", help="such as v5p:4x4x4; default: the config's own")
    parser.add_argument("--slices", type=int, default=1, help="number of slices with that topology")
    parser.add_argument(
        "--only", default="", help="only programs whose names begin so: grpo,evaluation.4096"
    )
    parser.add_argument(
        "--response_lengths",
        help="also the least time at these lengths: mean:TOKENS, mean:TOKENS,sigma:NUMBER "
        "(log-normal), or a run's metrics.jsonl or folder, local or on gs://",
    )
    parser.add_argument("--price_per_chip_hour", help="also the cost of the run, at least")
    parser.add_argument(
        "--no_compile", action="store_true", help="print the least time only, without traffic"
    )
    parser.add_argument(
        "--json", type=path_argument, help="write the plan to this file, local or on gs://"
    )
    arguments, config = parse_config(parser, argv)
    price = cost.parse_price(arguments.price_per_chip_hour)
    responses = _responses(arguments.response_lengths, config)
    topology = arguments.topology or config.topology
    if not topology:
        raise UserError("--topology is missing; give one, such as --topology=v5p:4x4x4")
    chip = chip_of(topology)
    if config.topology not in ("", topology) and not _sets_mesh(argv):
        _, config = parse_config(parser, _with_topology(argv, topology))
    check_training_mesh(config)
    check_evaluation_mesh(config)
    # The devices of this machine are not used.
    jax.config.update("jax_platforms", "cpu")
    # A kept program has no text to read the traffic from, and JAX can't load one for absent chips.
    jax.config.update("jax_enable_compilation_cache", False)
    devices = topology_devices(topology, arguments.slices)
    slices = f"{arguments.slices} slices of " if arguments.slices > 1 else ""
    num_chips = _check_chips(config, slices + topology, len(devices))
    path = as_path(arguments.json) if arguments.json else None
    if path is not None:
        make_folder(path.parent)
    context = abstract_context(config, devices)
    sizes = context.policy.config
    print(
        f"{slices}{topology}: {len(devices)} chips of {chip.hbm / GIB:.2f} GiB; mesh "
        f"{dict(config.mesh)}; {num_parameters(sizes) / 1e9:.2f}e9 parameters",
        flush=True,
    )
    all_programs = list(programs(config, context))
    # If the longest prompts fit, shorter ones fit too.
    shorter = [f"evaluation.{length}" for length in sorted(config.evaluation.lengths)[:-1]]
    beginnings = tuple(arguments.only.split(",")) if arguments.only else ()
    wanted = [
        program
        for program in all_programs
        if (program.name.startswith(beginnings) if beginnings else program.name not in shorter)
    ]
    if not wanted:
        raise UserError(f"no program's name begins with --only={arguments.only}; leave it out")
    head = {
        "machine": describe_machine() | {"libtpu": importlib.metadata.version("libtpu")},
        "command": "python -m recallm_jax.plan " + " ".join(argv),
        "topology": topology,
        "slices": arguments.slices,
        "mesh": dict(config.mesh),
        "parameters": num_parameters(sizes),
    }
    machine = cost.Machine(chip, num_chips, len(devices))
    least = functools.partial(
        cost.least_time, config, all_programs, machine, responses=responses, price=price
    )
    if arguments.no_compile:
        _show(least({}))
        if path is not None:
            report = head | {"complete": False, "programs": []}
            report |= {"least_time": cost.as_json(least({}))}
            write_whole(path, json.dumps(report, indent=1) + "\n")
        return True
    plan, notes, rows = [], {}, []
    traffic: dict[str, Traffic] = {}
    for program in wanted:
        print(f"compiling {program.name} …", file=sys.stderr, flush=True)
        planned = plan_program(program)
        plan.append(planned)
        if not planned.refused:
            traffic[program.name] = planned.traffic
        notes[program.name] = advice(planned, config, sizes) if planned.missing(chip) else []
        _say(planned, table.verdict(planned, chip, notes[program.name]), planned.missing(chip))
        rows.append(table.row(planned, chip, num_chips, notes[program.name]))
        if path is not None:
            # The file is complete after each program, because one may take an hour.
            complete, fits = len(rows) == len(wanted), all(row["fits"] for row in rows)
            report = head | {"complete": complete, "fits": fits, "programs": rows}
            report |= {"least_time": cost.as_json(least(traffic))}
            write_whole(path, json.dumps(report, indent=1) + "\n")
    print(f"\nGiB a chip:\n\n{table.memory_table(plan, chip)}\n")
    print(f"{table.work_table(plan, chip, num_chips)}\n")
    _show(least(traffic))
    short = [planned for planned in plan if planned.missing(chip)]
    for planned in short:
        print(table.verdict(planned, chip, notes[planned.program.name]))
    if not short:
        print(f"fits: all {len(plan)} programs on {slices}{topology}")
    return not short


def _responses(given: str | None, config: ConfigDict) -> LengthDistribution | None:
    """Return the lengths that `--response_lengths` gives."""
    if given is None:
        return None
    if not {"grpo", "ppo"} & set(config.stages):
        raise UserError(
            f"--response_lengths={given}: config.stages = {tuple(config.stages)} samples no "
            "responses; leave the flag out"
        )
    return given_lengths(given, config.decoding.max_new_tokens)


def _show(least: cost.LeastTime) -> None:
    print("\n".join(least.notes))
    print(f"\n{table.time_table(least)}\n")


def _say(planned: Planned, verdict: str, missing: int) -> None:
    line = verdict if missing else f"{planned.memory.total / GIB:.2f} GiB a chip, fits"
    print(f"  {planned.compile_seconds:.0f} s: {line}", file=sys.stderr, flush=True)


def _sets_mesh(argv: Sequence[str]) -> bool:
    return any(argument.lstrip("-").startswith("config.mesh.") for argument in argv)


def _with_topology(argv: Sequence[str], topology: str) -> list[str]:
    """Return the arguments, with the topology as a variant of the config's file."""
    changed = list(argv)
    for place, argument in enumerate(changed):
        name, equals, path = argument.partition("=")
        if name not in ("--config", "-config"):
            continue
        if not equals:
            place, path = place + 1, changed[place + 1]
        file, _, variant = path.partition(":")
        parts = [part for part in variant.split(",") if part and not part.startswith("topology=")]
        path = f"{file}:{','.join([*parts, f'topology={topology}'])}"
        changed[place] = f"{name}={path}" if equals else path
    return changed


def _check_chips(config: ConfigDict, topology: str, available: int) -> int:
    """Return the number of chips in the mesh.

    Raises:
      UserError: the topology has fewer chips.
    """
    count = math.prod(config.mesh.values())
    if count > available:
        raise UserError(
            f"config.mesh = {dict(config.mesh)} needs {count} chips, but {topology} has "
            f"{available}; lower an axis, or give a larger topology"
        )
    if count < available:
        print(f"note: the mesh takes {count} of the {available} chips of {topology}")
    return count


if __name__ == "__main__":
    sys.exit(main())
