"""Traces of chosen steps by JAX's profiler: the option `--profile` of train."""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping

import jax

from recallm_jax.runtime.errors import UserError, full_disk
from storage.files import Path, is_remote, make_folder, store

FOLDER = "profile"
_GIVEN = re.compile(r"(?:([A-Za-z]\w*):)?(\d+)(?::(\d+))?")


def profiled_steps(given: str, stages: Mapping[str, int]) -> dict[str, range]:
    """Return the steps of each stage that `--profile` asks for.

        3           the fourth step of the run, counted over its stages
        3:5         the fourth and the fifth
        grpo:3:5    those of the stage grpo, as metrics and console number them

    Args:
      given: the value of `--profile`; "" asks for none.
      stages: the number of steps of each stage, in order.

    Raises:
      UserError: the value is malformed, or the run has no such steps.
    """
    if not given:
        return {}
    match = _GIVEN.fullmatch(given)
    if match is None:
        raise UserError(
            f"--profile={given} does not name steps; give one such as 3, a range such as 3:5 "
            f"(steps 3 and 4), or those of a stage, such as {list(stages)[-1]}:3:5"
        )
    stage, first, end = match[1], int(match[2]), int(match[3] or int(match[2]) + 1)
    if stage is not None and stage not in stages:
        raise UserError(
            f"--profile={given}: this run has no stage {stage!r}; give one of {', '.join(stages)}"
        )
    count = sum(stages.values()) if stage is None else stages[stage]
    whose = "the run" if stage is None else f"the stage {stage}"
    if not first < end <= count:
        raise UserError(
            f"--profile={given} is no range of steps of {whose}, which has {count}, from 0 to "
            f"{count - 1}; the first number is the first step, the second the step after the last"
        )
    if stage is not None:
        return {stage: range(first, end)}
    found, before = {}, 0
    for name, number in stages.items():
        steps = range(max(first - before, 0), min(end - before, number))
        if steps:
            found[name] = steps
        before += number
    return found


def traced(
    steps: Iterable[int], wanted: range, stage: str, folder: Path
) -> Generator[int, None, None]:
    """Yield the steps of a stage; a trace is recorded from the first to the last wanted one.

    The trace is written after the last wanted step, or when the generator is closed.

    Args:
      folder: the trace is in a folder of its own, `plugins/profile/TIME`, in this one.
    """
    with contextlib.ExitStack() as trace:
        recording = False
        for step in steps:
            if step in wanted and not recording:
                trace.enter_context(_trace(folder))
                recording = True
            with jax.profiler.StepTraceAnnotation(stage, step_num=step):
                yield step
            if recording and step + 1 not in wanted:
                trace.close()
                recording = False


@contextlib.contextmanager
def _trace(folder: Path) -> Iterator[None]:
    """Record a `with` block into a folder, which may be on gs://; also if the block fails."""
    options = jax.profiler.ProfileOptions()
    # Calls of Python functions would crowd out the operations of the device.
    options.python_tracer_level = 0
    make_folder(folder)
    remote = is_remote(folder)
    with tempfile.TemporaryDirectory() if remote else contextlib.nullcontext(folder) as local:
        jax.profiler.start_trace(str(local), create_perfetto_trace=True, profiler_options=options)
        try:
            yield
        finally:
            _stop(folder)
            if remote:
                _upload(pathlib.Path(local), folder)


def _stop(folder: Path) -> None:
    """Write the trace; raise the profiler's own error for a full disk as an `OSError`."""
    try:
        jax.profiler.stop_trace()
    except Exception as error:
        met = full_disk(error, folder)
        if met is None:
            raise
        raise met from None


def _upload(local: pathlib.Path, folder: Path) -> None:
    for file in local.rglob("*"):
        if file.is_file():
            store(folder).put_file(str(file), str(folder / str(file.relative_to(local))))
