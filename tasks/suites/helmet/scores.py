"""The scores of HELMET's tasks: metrics of an output from 0 to 1, the main one first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.suites.helmet import citations
from tasks.suites.helmet.judges import Judges, answer_grade, summary_f1
from tasks.suites.helmet.ranking import parse_ranking, ranking_scores
from tasks.suites.helmet.text_metrics import (
    better_of_raw_and_parsed,
    choice_scores,
    parse,
    text_scores,
)
from tasks.suites.ruler.scores import match_all
from tasks.suites.task import Scores

Truth = Mapping[str, Any]
# (output, with its lead-in where the prompt had it; ground truth; judges) -> metrics.
ScoreOutput = Callable[[str, Truth, Judges], Scores]


def ruler(output: str, truth: Truth, judges: Judges) -> Scores:
    """Return the share of the values that the output has."""
    del judges
    return {"ruler_recall": match_all(output, truth["answers"])}


def contained(lead_in: str) -> ScoreOutput:
    """Return a scorer whose main metric is whether the output contains a reference."""

    def score(output: str, truth: Truth, judges: Judges) -> Scores:
        del judges
        scores = better_of_raw_and_parsed(output, truth["answers"], lead_in)
        return _first("substring_exact_match", scores)

    return score


def label(lead_in: str) -> ScoreOutput:
    """Return a scorer that computes text metrics of the label after the lead-in alone."""

    def score(output: str, truth: Truth, judges: Judges) -> Scores:
        del judges
        return text_scores(parse(output, lead_in), truth["answers"])

    return score


def ranking(output: str, truth: Truth, judges: Judges) -> Scores:
    """Return the metrics of a ranking, NDCG@10 first."""
    del judges
    scores = ranking_scores(parse_ranking(output), truth["grades"])
    return _first("NDCG@10", scores)


def asqa(output: str, truth: Truth, judges: Judges) -> Scores:
    """Score the short answers in a text, and its citations if there is a judge."""
    scores = {"str_em": citations.answer_recall(output, truth["parts"])}
    return scores | _cited(citations.sentence_claims(output), truth, judges)


def qampari(output: str, truth: Truth, judges: Judges) -> Scores:
    """Score the items of a list, and its citations if there is a judge."""
    scores = _first("qampari_rec_top5", citations.list_scores(output, truth["parts"]))
    claims = citations.list_claims(output, truth["choices"]["question"])
    return scores | _cited(claims, truth, judges)


def _cited(claims: Sequence[str], truth: Truth, judges: Judges) -> Scores:
    if judges.entailment is None:
        return {}
    return citations.citation_scores(claims, truth["choices"], judges.entailment)


def graded_answer(output: str, truth: Truth, judges: Judges) -> Scores:
    """Return the judge's grade, if there is a judge, and text metrics."""
    scores = _first("rougeL_f1", better_of_raw_and_parsed(output, truth["answers"]))
    if judges.answer is None:
        return scores
    question = truth["choices"]["question"]
    return {"gpt-4-score": answer_grade(judges.answer, question, output, truth["answers"])} | scores


def rouge_answer(output: str, truth: Truth, judges: Judges) -> Scores:
    """Return text metrics, rougeL_f1 first."""
    del judges
    return _first("rougeL_f1", better_of_raw_and_parsed(output, truth["answers"]))


def choice(output: str, truth: Truth, judges: Judges) -> Scores:
    """Score the choice of a letter or an option."""
    del judges
    letter = truth["answers"][0]
    return _first("exact_match", choice_scores(output, letter, truth["choices"][letter]))


def summary(lead_in: str) -> ScoreOutput:
    """Return a scorer of summaries: the judge's grade, if there is a judge, and text metrics."""

    def score(output: str, truth: Truth, judges: Judges) -> Scores:
        scores = _first("rougeLsum_f1", better_of_raw_and_parsed(output, truth["answers"], lead_in))
        if judges.summary is None:
            return scores
        return {"gpt-4-f1": summary_f1(judges.summary, output, truth["answers"])} | scores

    return score


def _first(name: str, scores: Scores) -> Scores:
    """Return the scores with the named one first."""
    return {name: scores[name]} | scores
