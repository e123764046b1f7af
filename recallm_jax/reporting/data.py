"""The files of a run, read, counted and compared, for reports and comparisons."""

import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recallm_jax.evaluation.files import SUMMARY, read_rows
from recallm_jax.evaluation.probe import SUMMARY as PROBE_SUMMARY
from recallm_jax.evaluation.probe import read_summary
from recallm_jax.evaluation.statistics import (
    Number,
    WelchInterval,
    mean_and_error,
    welch_interval,
    wilson_interval,
)
from recallm_jax.evaluation.summaries import Row, question_of
from recallm_jax.policy.modes import MODES
from recallm_jax.runtime.errors import UserError
from recallm_jax.runtime.metrics import FILE as METRICS_FILE
from recallm_jax.runtime.metrics import read_metrics
from storage.files import Path, as_path, is_remote, read_text

# The titles of a run's labels, in the order of the run; other labels follow by name.
TITLES = {
    "start": "start",
    "cold_start": "after cold start",
    "grpo": "after GRPO",
    "ppo": "after PPO",
}
# The titles of the stages that learn from rewards.
POLICY_STAGES = {"grpo": "GRPO", "ppo": "PPO"}
# The number of colours of the page and the pictures.
NUM_COLOURS = 8


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of a run's folder.

    Attributes:
      metrics: rows of `metrics.jsonl`, by stage, in order of steps.
      rows: evaluation rows of all labels, tasks and modes.
      probes: summary rows of each lost-in-thought probe, by label.
      labels, modes, lengths, datasets: the values that occur in the rows, in order.
      evaluated: the labels whose evaluation is whole.
    """

    name: str
    config: dict[str, Any]
    machine: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    rows: list[Row]
    probes: dict[str, list[Row]]
    labels: list[str]
    modes: list[str]
    lengths: list[int]
    datasets: list[str]
    evaluated: frozenset[str] = frozenset()


def load_run(workdir: str | Path) -> Run:
    """Read a run's folder.

    Raises:
      UserError: the folder holds no metrics, evaluations or probes, or a damaged file.
    """
    folder = as_path(workdir)
    rows = [row for path in sorted(folder.glob("eval/*/*.jsonl")) for row in read_rows(path)]
    metrics: dict[str, list[dict[str, Any]]] = {}
    for row in read_metrics(folder / METRICS_FILE):
        metrics.setdefault(row["stage"], []).append(row)
    paths = sorted(folder.glob(f"probe/*/{PROBE_SUMMARY}"))
    probes = {path.parent.name: read_summary(path) for path in paths}
    if not rows and not metrics and not probes:
        raise UserError(
            f"{folder} holds neither {METRICS_FILE} nor eval/*/*.jsonl nor a probe; give the "
            "--workdir that recallm_jax.train wrote"
        )
    for stage in metrics.values():
        stage.sort(key=lambda row: row["step"])
    return Run(
        name=folder.name if is_remote(folder) else folder.resolve().name,
        config=_read_json(folder / "config.json"),
        machine=_read_json(folder / "machine.json"),
        metrics=metrics,
        rows=rows,
        probes={label: probes[label] for label in _ordered(set(probes), tuple(TITLES))},
        labels=_ordered({row["label"] for row in rows}, tuple(TITLES)),
        modes=_ordered({row["mode"] for row in rows}, MODES),
        lengths=sorted({row["target_length"] for row in rows}),
        datasets=sorted({row["dataset"] for row in rows}),
        evaluated=frozenset(path.parent.name for path in folder.glob(f"eval/*/{SUMMARY}")),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(read_text(path))
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(values, dict):
        raise _damaged(path, "it does not hold fields by name")
    return values


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is damaged ({reason}); restore it, or delete it to report without it")


def _ordered(names: set[str], known: Sequence[str]) -> list[str]:
    return [name for name in known if name in names] + sorted(names - set(known))


@dataclasses.dataclass(frozen=True)
class Tally:
    """The counts and means of evaluation rows.

    Attributes:
      n: prompts.
      questions: distinct questions. Only they count as independent, however many prompts ask each
        one and however many responses each prompt has.
      exact_match, low, high: the share of right answers and its 95 % Wilson interval.
      reward, finished, tokens: means.
      spans, verbatim: closed recall spans, and how many of them are copies from the prompt.
    """

    n: int
    questions: int
    exact_match: float
    low: float
    high: float
    reward: float
    finished: float
    tokens: float
    spans: int
    verbatim: int


def titles(run: Run) -> dict[str, str]:
    """Return the title of each of a run's labels."""
    return {label: TITLES.get(label, label) for label in run.labels}


def policy_stage(run: Run) -> str | None:
    """Return the run's last policy-gradient stage; None if it has none."""
    found = [stage for stage in POLICY_STAGES if stage in run.metrics]
    return found[-1] if found else None


def reward_curve(run: Run) -> tuple[str, list[tuple[int, float]]]:
    """Return the title of the run's last policy-gradient stage and its rewards by step."""
    stage = policy_stage(run)
    return (
        ("", []) if stage is None else (POLICY_STAGES[stage], curve(run.metrics[stage], "reward"))
    )


def main_labels(run: Run) -> list[str]:
    """Return the labels that a run is judged by: those of the ends of its stages, or else all.

    Other labels, such as "grpo_step20", name policies within a stage, or were given by a user.
    """
    return [label for label in run.labels if label in TITLES] or run.labels


def colour(run: Run, label: str) -> int:
    """Return the number of a label's colour; the end of a stage has the same one in every run."""
    if label in TITLES:
        return list(TITLES).index(label)
    others = [other for other in run.labels if other not in TITLES]
    return len(TITLES) + others.index(label) % (NUM_COLOURS - len(TITLES))


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """Return the rows whose fields have these values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def count(rows: Sequence[Row]) -> Tally | None:
    """Count rows; return None without rows."""
    if not rows:
        return None
    exact_match = statistics.fmean(row["exact_match"] for row in rows)
    prompts = len({(row["task"], row["mode"], row["example_id"]) for row in rows})
    questions = len({question_of(row) for row in rows})
    low, high = wilson_interval(exact_match * questions, questions)
    spans = [span for row in rows for span in row["spans"] if span["closed"]]
    return Tally(
        n=prompts,
        questions=questions,
        exact_match=exact_match,
        low=low,
        high=high,
        reward=statistics.fmean(row["reward"] for row in rows),
        finished=statistics.fmean(row["finished"] for row in rows),
        tokens=statistics.fmean(row["completion_tokens"] for row in rows),
        spans=len(spans),
        verbatim=sum(span["verbatim"] for span in spans),
    )


@dataclasses.dataclass(frozen=True)
class Change:
    """A quantity over the first and the last third of its steps.

    Attributes:
      first, last: means; first_error, last_error: their standard errors.
      steps: the number of steps in each third.
      interval: the 95 % interval of the difference, by Student's t: few steps make it wide.
    """

    first: float
    first_error: float
    last: float
    last_error: float
    steps: int
    interval: WelchInterval

    @property
    def difference(self) -> float:
        """Last minus first."""
        return self.last - self.first

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.interval.low <= 0 <= self.interval.high


def change(*curves: Sequence[Number]) -> Change | None:
    """Compare the last third of a curve, or of several, with the first.

    Steps count as independent, and consecutive ones nearly are: each draws its own prompts.

    Returns:
      The comparison; None if a curve has fewer than 6 steps.
    """
    if any(len(values) < 6 for values in curves):
        return None
    first = [value for values in curves for value in values[: len(values) // 3]]
    last = [value for values in curves for value in values[-(len(values) // 3) :]]
    return Change(
        *mean_and_error(first),
        *mean_and_error(last),
        steps=len(first),
        interval=welch_interval(first, last),
    )


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, Number]]:
    """Return the (step, value) pairs of a metric; values that are not finite are left out."""
    return [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
