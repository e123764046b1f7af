"""SeqIO metric functions of the data sets: means over whole responses, including the thought."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.datasets.dataset import Dataset
from tasks.prompts.vocabulary import END_RECALL, START_RECALL
from tasks.scoring.answers import extract_answer
from tasks.scoring.reward import SETTINGS
from tasks.scoring.truth import GroundTruth, ground_truth

# (ground truths in the form of records, whole responses) -> means in percent by name.
MetricFunction = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], dict[str, float]]


def recall_spans(response: str) -> list[str]:
    """Return the texts of a response's recall spans, including one left open."""
    return [part.partition(END_RECALL)[0] for part in response.split(START_RECALL)[1:]]


def metric_functions(dataset: Dataset) -> list[MetricFunction]:
    """Return the metric functions of a data set's tasks."""

    def scores(response: str, truth: GroundTruth | None) -> dict[str, float]:
        assert truth is not None, "a prompt without a right answer has no metrics"
        answer, spans = extract_answer(response), recall_spans(response)
        return {
            name: score(answer, spans, truth, SETTINGS["eval"])
            for name, score in dataset.metrics.items()
        }

    # SeqIO passes these arguments by name.
    def means(targets: Sequence[Mapping[str, Any]], predictions: Sequence[str]) -> dict[str, float]:
        rows = [
            scores(response, ground_truth(dataset.name, fields))
            for fields, response in zip(targets, predictions, strict=True)
        ]
        names = rows[0] if rows else ()
        return {name: 100 * sum(row[name] for row in rows) / len(rows) for name in names}

    return [means]
