"""Summaries of an evaluation's rows: means, intervals, each task's metrics, and the table."""

import collections
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from recallm_jax.evaluation.statistics import wilson_interval
from tasks.datasets.registry import DATASETS
from tasks.metrics import metric_functions
from tasks.names import length_name
from tasks.suites import registry
from tasks.suites.task import SuiteTask

Row = dict[str, Any]


def summarise(rows: Sequence[Row]) -> Row:
    """Summarise one task and mode: means, and the 95 % interval of the exact match.

    Each distinct question counts as one trial. The interval therefore holds however strongly the
    prompts of a question and the samples of a prompt correlate, and is wider than necessary if they
    are independent.
    """
    spans = [span for row in rows for span in row["spans"] if span["closed"]]
    exact_match = float(np.mean([row["exact_match"] for row in rows]))
    prompts = len({row["example_id"] for row in rows})
    questions = len({question_of(row) for row in rows})
    low, high = wilson_interval(exact_match * questions, questions)
    first = rows[0]
    return {
        **{name: first[name] for name in ("label", "task", "dataset", "target_length", "mode")},
        "n": prompts,
        "questions": questions,
        "samples": len(rows) // prompts,
        "exact_match": exact_match,
        "exact_match_low": low,
        "exact_match_high": high,
        "reward": float(np.mean([row["reward"] for row in rows])),
        "finished": float(np.mean([row["finished"] for row in rows])),
        "spans": len(spans),
        "verbatim_spans": sum(span["verbatim"] for span in spans),
        "completion_tokens": float(np.mean([row["completion_tokens"] for row in rows])),
        **task_metrics(rows),
    }


def question_of(row: Row) -> tuple[str, str]:
    """Return what names the question of a row: prompts that ask the same one are no new evidence.

    Where the record names no question, its prompt stands for it.
    """
    return row["dataset"], row["ground_truth"].get("question_id") or row["prompt"]


def suite_task(dataset: str) -> SuiteTask | None:
    """Return the task of a suite that has this name; None for a data set or an unknown name."""
    return None if dataset in DATASETS else registry.find_task(dataset)


def task_metrics(rows: Sequence[Row]) -> Row:
    """Return the metrics of the rows of one task, the main one named: a suite's own, or SeqIO's.

    The result is empty if no right answer is known.
    """
    dataset = rows[0]["dataset"]
    task = suite_task(dataset)
    if task is not None:
        metrics = task.aggregate([row["components"] for row in rows])
    elif dataset in DATASETS and all(row["ground_truth"] for row in rows):
        (function,) = metric_functions(DATASETS[dataset])
        truths = [row["ground_truth"] for row in rows]
        metrics = function(truths, [row["completion"] for row in rows])
    else:
        return {}
    return {"metric": next(iter(metrics)), "metrics": metrics}


def overall_rows(summaries: Sequence[Row]) -> list[Row]:
    """Return the metrics of each whole suite, by length and mode."""
    scores: dict[tuple, dict[str, float]] = {}
    for row in summaries:
        if "metrics" in row:
            where = (row["label"], row["target_length"], row["mode"])
            scores.setdefault(where, {})[row["dataset"]] = row["metrics"][row["metric"]]
    rows = []
    for (label, length, mode), found in scores.items():
        for suite in registry.SUITES:
            metrics = registry.overall(suite, found)
            if metrics is not None:
                fields = {"label": label, "suite": suite, "target_length": length, "mode": mode}
                rows.append(fields | {"metrics": metrics})
    return rows


def across_lengths(rows: Sequence[Row]) -> list[Row]:
    """Return the metrics of each suite over all its lengths, by label and mode.

    Args:
      rows: the result of `overall_rows`.
    """
    found: dict[tuple, dict[int, dict[str, float]]] = {}
    for row in rows:
        where = (row["label"], row["suite"], row["mode"])
        found.setdefault(where, {})[row["target_length"]] = row["metrics"]
    return [
        {"label": label, "suite": suite, "mode": mode, "lengths": sorted(scores)}
        | {"metrics": registry.ACROSS[suite](scores)}
        for (label, suite, mode), scores in found.items()
        if suite in registry.ACROSS
    ]


# Longer prompts are long ones in the averages.
SHORT = 32_768


def averages(summaries: Sequence[Row]) -> list[Row]:
    """Return the averages of the data sets' main metrics, in percent, by label and mode.

    A data set counts by its mean over the lengths, a category by the mean of its data sets, and
    `grand` is the mean of the data sets. `short` and `long` are the same over the lengths up to
    32,768 tokens and above. Questions count at the length at which a data set has most, since its
    lengths may ask the same.

    Returns:
      A row for each label and mode that has more than one data set.
    """
    found: dict[tuple, dict[str, dict[int, float]]] = {}
    asked: dict[tuple, collections.Counter[str]] = {}
    for row in summaries:
        if row["dataset"] in DATASETS and "metrics" in row:
            scores = found.setdefault((row["label"], row["mode"]), {})
            counts = asked.setdefault((row["label"], row["mode"]), collections.Counter())
            counts |= collections.Counter({row["dataset"]: row["questions"]})
            of_lengths = scores.setdefault(row["dataset"], {})
            of_lengths[row["target_length"]] = row["metrics"][row["metric"]]
    rows = []
    for (label, mode), scores in found.items():
        if len(scores) < 2:
            continue
        by_category: dict[str, list[float]] = {}
        for dataset, of_lengths in scores.items():
            mean = statistics.fmean(of_lengths.values())
            by_category.setdefault(DATASETS[dataset].category, []).append(mean)
        metrics = {"grand": _grand(scores, lambda length: True)}
        metrics |= {name: statistics.fmean(means) for name, means in sorted(by_category.items())}
        halves = {"short": lambda length: length <= SHORT, "long": lambda length: length > SHORT}
        parts = {name: _grand(scores, wanted) for name, wanted in halves.items()}
        if all(value is not None for value in parts.values()):
            metrics |= parts
        fields = {"label": label, "mode": mode, "data_sets": len(scores)}
        questions = asked[label, mode].total()
        rows.append(fields | {"questions": questions, "metrics": metrics})
    return rows


def _grand(
    scores: Mapping[str, Mapping[int, float]], wanted: Callable[[int], bool]
) -> float | None:
    """Return the mean over data sets of their means over the wanted lengths; None without any."""
    means = [
        statistics.fmean(values)
        for of_lengths in scores.values()
        if (values := [value for length, value in of_lengths.items() if wanted(length)])
    ]
    return statistics.fmean(means) if means else None


EXACT_MATCH = "exact_match"


def format_table(summaries: Sequence[Row]) -> str:
    """Return the summary as a table for the console."""
    header = ["policy", "task", "mode", "n", "questions", "exact match", "95 % interval"]
    header += ["reward", "verbatim"]
    others = any(row.get("metric", EXACT_MATCH) != EXACT_MATCH for row in summaries)
    lines = [header + ["the task's own metrics"] * others]
    for row in summaries:
        lines.append(
            [
                row["label"],
                row["task"].removeprefix("recallm_"),
                row["mode"],
                str(row["n"]),
                str(row["questions"]),
                f"{100 * row['exact_match']:.1f} %",
                f"{100 * row['exact_match_low']:.1f} to {100 * row['exact_match_high']:.1f} %",
                f"{row['reward']:.3f}",
                f"{row['verbatim_spans']}/{row['spans']}",
                *([_metrics(row.get("metrics", {}))] * others),
            ]
        )
    table, overall = [align(lines)], overall_rows(summaries)
    for row in overall:
        where = f"{row['suite']} at {length_name(row['target_length'])}, {row['mode']}"
        table.append(f"{row['label']}: {where}: {_metrics(row['metrics'])}")
    for row in averages(summaries):
        where = f"averages of {row['data_sets']} data sets, {row['questions']} questions"
        where += f", {row['mode']}"
        table.append(f"{row['label']}: {where}: {_metrics(row['metrics'])}")
    for row in across_lengths(overall):
        where = f"{row['suite']} at {len(row['lengths'])} lengths, {row['mode']}"
        table.append(f"{row['label']}: {where}: {_metrics(row['metrics'])}")
    return "\n".join(table)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as columns of text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _metrics(metrics: Row) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
