"""What an evaluation asks: the mixture's validation tasks, and the suites of a config."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from recallm_jax.inputs import task_settings, validation_records
from tasks import suites
from tasks.metrics import metric_functions
from tasks.names import CATEGORIES, validation_task
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


def task_metrics(rows: Sequence[Row]) -> Row:
    """Return the metrics of the rows of one task, the main one named: a suite's own, or SeqIO's.

    Nothing where no right answer is known.
    """
    dataset = rows[0]["dataset"]
    task = suites.find_task(dataset)
    if task is not None:
        metrics = task.aggregate([row["components"] for row in rows])
    elif dataset in CATEGORIES and all(row["ground_truth"] for row in rows):
        (function,) = metric_functions(dataset)
        truths = [row["ground_truth"] for row in rows]
        metrics = function(truths, [row["completion"] for row in rows])
    else:
        return {}
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
