"""SeqIO metric functions over the scores that the rewards use too (`tasks/scoring/`).

Each takes the ground truths as they stand in records and whole responses, thought included, and
returns means in percent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.names import CATEGORIES
from tasks.prompts.vocabulary import END_RECALL, START_RECALL
from tasks.scoring import answers, candidates, ids, mathematics

Truth = Mapping[str, Any]
MetricFunction = Callable[[Sequence[Truth], Sequence[str]], dict[str, float]]
# Scores of one response by name: from the truth, the final answer and the whole response.
Scores = Callable[[Truth, str, str], dict[str, float]]


def recall_spans(response: str) -> list[str]:
    """Return the texts of a response's recall spans, one left open among them."""
    return [part.partition(END_RECALL)[0] for part in response.split(START_RECALL)[1:]]


def _value(truth: Truth, answer: str, response: str) -> dict[str, float]:
    values = truth["answers"]
    return {
        "exact_match": max(answers.exact_match(answer, value) for value in values),
        "answer_contained": max(answers.contains_value(answer, value) for value in values),
    }


def _several_values(truth: Truth, answer: str, response: str) -> dict[str, float]:
    parts, wrong = _parts(truth), truth.get("wrong", ())
    score = candidates.several_values(answer, parts, wrong)
    return {"exact_match": float(score == 1.0), "values_found": score}


def _mathematics(truth: Truth, answer: str, response: str) -> dict[str, float]:
    equal = (mathematics.equal_expressions(answer, value) for value in truth["answers"])
    return {"accuracy": max(equal)}


def _option(truth: Truth, answer: str, response: str) -> dict[str, float]:
    letter, options = truth["answers"][0], truth.get("choices", {})
    return {"accuracy": mathematics.chosen_option(answer, letter, options)}


def _label(truth: Truth, answer: str, response: str) -> dict[str, float]:
    equal = (answers.is_equal_normalised(answer, label) for label in truth["answers"])
    return {"accuracy": max(equal)}


def _letter(truth: Truth, answer: str, response: str) -> dict[str, float]:
    letter, options = truth["answers"][0], truth.get("choices", {})
    return {"accuracy": candidates.chosen_letter(answer, letter, options)}


def _majority(truth: Truth, answer: str, response: str) -> dict[str, float]:
    wrong = truth.get("wrong", ())
    return {"accuracy": candidates.majority(answer, truth["answers"], wrong)}


def _top_votes(truth: Truth, answer: str, response: str) -> dict[str, float]:
    score = candidates.top_votes(answer, _parts(truth), truth.get("wrong", ()))
    return {"exact_match": float(score == 1.0), "options_found": score}


def _ranking(truth: Truth, answer: str, response: str) -> dict[str, float]:
    ranking = ids.ranked_ids(answer)
    return {
        "ndcg_at_10": ids.ndcg(ranking, truth["grades"]),
        "ranked": ids.valid_share(ranking, truth["grades"]),
    }


def _citations(truth: Truth, answer: str, response: str) -> dict[str, float]:
    return {
        "citation_f1": ids.citation_f1(answer, recall_spans(response), truth["grades"]),
        "answer_coverage": ids.answer_coverage(answer, _parts(truth)),
    }


def _reference(truth: Truth, answer: str, response: str) -> dict[str, float]:
    aliases = truth["answers"]
    return {
        "exact_match": max(answers.is_equal_normalised(answer, alias) for alias in aliases),
        "substring_match": max(answers.matches_reference(answer, alias) for alias in aliases),
        "f1": max(answers.token_f1(answer, alias) for alias in aliases),
    }


def _parts(truth: Truth) -> Sequence[Sequence[str]]:
    return truth.get("parts") or [truth["answers"]]


_BY_CATEGORY: dict[str, Scores] = {
    "recall": _value,
    "reasoning_retrieval": _value,
    "short_context_math": _mathematics,
    "icl": _label,
    "long_doc_qa": _letter,
    "aggregation": _majority,
    "reranking": _ranking,
    "citation_qa": _citations,
    "multi_hop_qa": _reference,
    "single_hop_qa": _reference,
    "own": _reference,
}
# Data sets that are scored otherwise than the first of their category.
_BY_DATASET: dict[str, Scores] = {
    "multi_niah": _several_values,
    "mcqa_math": _option,
    "top_n_vote": _top_votes,
}


def metric_functions(dataset: str) -> list[MetricFunction]:
    """Return the metric functions of a data set's tasks.

    Raises:
      KeyError: there is no such data set.
    """
    scores = _BY_DATASET.get(dataset) or _BY_CATEGORY[CATEGORIES[dataset]]

    # SeqIO calls by these names.
    def means(targets: Sequence[Truth], predictions: Sequence[str]) -> dict[str, float]:
        return _means(scores, targets, predictions)

    return [means]


def _means(
    scores: Scores, targets: Sequence[Truth], predictions: Sequence[str]
) -> dict[str, float]:
    rows = [
        scores(truth, answers.extract_answer(response), response)
        for truth, response in zip(targets, predictions, strict=True)
    ]
    names = rows[0] if rows else ()
    return {name: 100 * sum(row[name] for row in rows) / len(rows) for name in names}
