import pytest

from tasks.datasets.registry import find
from tasks.metrics import metric_functions, recall_spans
from tests.oracles.reward_truths import CASES

CASE = {case.truth.dataset: case for case in CASES}


def fields(dataset):
    """Return the truth in the form of a record."""
    truth = CASE[dataset].truth
    return {
        "answers": list(truth.answers),
        "gold_documents": list(truth.gold_documents),
        "parts": [list(part) for part in truth.parts],
        "wrong": list(truth.wrong),
        "grades": dict(truth.grades),
        "choices": dict(truth.choices),
    }


def measured(dataset, *answers):
    (metric,) = metric_functions(find(dataset))
    responses = [f"</think>Answer: {answer}" for answer in answers]
    return metric(targets=[fields(dataset)] * len(answers), predictions=responses)


@pytest.mark.parametrize(
    ("dataset", "answers", "means"),
    [
        (
            "retrieval",
            ["aB3dE6gH9k", "it is aB3dE6gH9k", "7"],
            {"exact_match": 1, "answer_contained": 2},
        ),
        ("multi_niah", ["1234567", "1234567 7654321"], {"exact_match": 1, "values_found": 1.5}),
        ("mcqa_math", ["B", "C", r"\boxed{\frac{1}{2}}"], {"accuracy": 2}),
        ("dapo_math", ["42", "41"], {"accuracy": 1}),
        ("quality", ["B", "The old house"], {"accuracy": 1}),
        ("majority_vote", ["Street", "Mill Road"], {"accuracy": 1}),
        ("top_n_vote", ["Elm Street"], {"exact_match": 0, "options_found": 0.5}),
        ("msmarco_v2", ["38"], {"ndcg_at_10": 2 / 3.7618595, "ranked": 1 / 40}),
        ("qampari", ["Paris [1], Rome [2]"], {"citation_f1": 0.5, "answer_coverage": 2 / 3}),
        # One word of four: precision 1/4, recall 1.
        ("nq", ["It is in Paris"], {"exact_match": 0, "substring_match": 1, "f1": 0.4}),
    ],
)
def test_means_by_hand(dataset, answers, means):
    expected = {name: pytest.approx(100 * v / len(answers)) for name, v in means.items()}
    assert measured(dataset, *answers) == expected


def test_nothing_to_measure_gives_no_means():
    assert metric_functions("retrieval")[0]([], []) == {}


def test_an_open_span_is_a_span():
    text = "a<|start_recall|>one<|end_recall|>b<|start_recall|>two"
    assert recall_spans(text) == ["one", "two"]
    assert recall_spans("none<|end_recall|>") == []
