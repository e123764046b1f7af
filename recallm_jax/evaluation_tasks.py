"""What an evaluation asks: the mixture's validation tasks, and the suites of a config."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from recallm_jax.inputs import task_settings, validation_records
from tasks import suites
from tasks.names import validation_task
from tasks.record import Record
from tasks.vocabulary import Tokenizer

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class EvaluationTask:
    """One task at one length.

    Attributes:
      max_new_tokens: of a response.
      records: makes the examples.
    """

    name: str
    length: int
    max_new_tokens: int
    records: Callable[[], list[Record]]


def evaluation_tasks(
    config: ConfigDict,
    tokenizer: Tokenizer,
    *,
    suites_only: bool = False,
    most: int | None = None,
) -> list[EvaluationTask]:
    """Return the tasks of a config at all its lengths; records are made when they are asked for.

    Args:
      suites_only: leave out the mixture's validation tasks.
      most: examples of a suite's task, no more than this; None for evaluation.num_examples.
    """
    found = []
    new_tokens = config.decoding.max_new_tokens
    mixture = (
        [] if suites_only else [name for name, rate in config.data.mixture.items() if rate > 0]
    )
    for dataset in sorted(mixture):
        for length in config.evaluation.lengths:
            records = functools.partial(validation_records, config, tokenizer, dataset, length)
            name = validation_task(dataset, length)
            found.append(EvaluationTask(name, length, new_tokens, records))
    settings = task_settings(config)
    count = config.evaluation.num_examples if most is None else most
    for task in suites.suite_tasks(config.evaluation.suites):
        for length in config.evaluation.lengths:
            make = functools.partial(task.records, tokenizer, settings, length, count, config.seed)
            name = suites.task_at(task.name, length)
            limit = task.max_new_tokens or new_tokens
            found.append(EvaluationTask(name, length, limit, make))
    return found


def suite_scores(dataset: str, response: str, truth: Mapping[str, Any]) -> Row | None:
    """Return what a row says of a suite's response; None where the data set is no suite's task.

    The suite's main metric is the score, and the reward; its metrics are the components.
    """
    task = suites.find_task(dataset)
    if task is None:
        return None
    metrics = task.score(response, truth)
    main = next(iter(metrics.values()))
    return {
        "reward": main,
        "exact_match": float(main == 1),
        "score": main,
        "components": metrics,
    }


def suite_summary(rows: Sequence[Row]) -> Row:
    """Return a suite's own aggregate of the rows of one task; nothing where it is no suite's."""
    task = suites.find_task(rows[0]["dataset"])
    if task is None:
        return {}
    metrics = task.aggregate([row["components"] for row in rows])
    return {"metric": next(iter(metrics)), "metrics": metrics}


def overall_rows(summaries: Sequence[Row]) -> list[Row]:
    """Return what the tasks of each suite come to by length and mode, where all are there."""
    scores: dict[tuple, dict[str, float]] = {}
    for row in summaries:
        if "metrics" in row:
            where = (row["label"], row["target_length"], row["mode"])
            scores.setdefault(where, {})[row["dataset"]] = row["metrics"][row["metric"]]
    rows = []
    for (label, length, mode), found in scores.items():
        for suite in suites.SUITES:
            metrics = suites.overall(suite, found)
            if metrics is not None:
                fields = {"label": label, "suite": suite, "target_length": length, "mode": mode}
                rows.append(fields | {"metrics": metrics})
    return rows
