"""The paper's own scores of answers, to be used in place of ours (arXiv 2604.09494, D.3)."""

import dataclasses
from collections.abc import Mapping

from tasks.datasets.citation_qa import cited_answers
from tasks.datasets.dataset import Dataset
from tasks.datasets.reasoning_retrieval import value_or_number
from tasks.datasets.reranking import ndcg
from tasks.errors import TaskInputError
from tasks.scoring import paper
from tasks.scoring.reward import Score, best_of, of_answer

_label, _reference = best_of(paper.is_equal_normalised), best_of(paper.matches_reference)
# The paper's score of each data set, by name.
PAPER: Mapping[str, Score] = {
    "retrieval": best_of(paper.contains_value),
    "multi_niah": of_answer(
        lambda answer, truth: paper.several_values(answer, truth.all_parts, truth.wrong)
    ),
    "math_retrieval": value_or_number(paper.contains_value),
    "dapo_math": best_of(paper.equal_expressions),
    "mcqa_math": of_answer(
        lambda answer, truth: paper.chosen_option(answer, truth.answers[0], truth.choices)
    ),
    "banking77": _label,
    "massive": _label,
    "quality": of_answer(
        lambda answer, truth: paper.chosen_letter(answer, truth.answers[0], truth.choices)
    ),
    "majority_vote": of_answer(
        lambda answer, truth: paper.majority(answer, truth.answers, truth.wrong)
    ),
    "top_n_vote": of_answer(
        lambda answer, truth: paper.top_votes(answer, truth.all_parts, truth.wrong)
    ),
    # Our score is the paper's; both read ids in quotes and without their leading zeros.
    "msmarco_v2": ndcg,
    "qampari": cited_answers(paper.citation_f1, paper.answer_coverage),
    "hotpotqa": _reference,
    "musique": _reference,
    "2wikimultihopqa": _reference,
    "nq": _reference,
    "triviaqa": _reference,
    # The paper does not have this data set; it is scored like the paper's questions.
    "own_questions": _reference,
}
# The tasks' halves of the format reward that differ from ours.
FORMATS: Mapping[str, Score] = {
    "qampari": of_answer(lambda answer, truth: paper.citation_format(answer, truth.grades)),
}


def paper_dataset(dataset: Dataset) -> Dataset:
    """Return the data set with the paper's score in place of ours.

    Raises:
      TaskInputError: the paper has no score for it.
    """
    if dataset.name not in PAPER:
        raise TaskInputError(
            f"dataset {dataset.name!r} has no score in the paper; use one of {', '.join(PAPER)}, "
            "or its own score"
        )
    task_format = FORMATS.get(dataset.name, dataset.reward.task_format)
    return dataclasses.replace(
        dataset,
        score=PAPER[dataset.name],
        reward=dataclasses.replace(dataset.reward, task_format=task_format),
    )
