import dataclasses

import pytest

from rl.rewards.categories import SETTINGS, GroundTruth, category

RETRIEVAL = GroundTruth("retrieval", ("aB3dE6gH9k",), ("Key 7:\naB3dE6gH9k",))
MATHS = GroundTruth("math_retrieval", ("aB3dE6gH9k",), ("Key 7:\naB3dE6gH9k",), math_answer="7")


def answer_score(answer, truth, settings):
    return category(truth.dataset, settings).answer_score(answer, (), truth, settings)


@pytest.mark.parametrize("dataset", ["retrieval", "math_retrieval"])
def test_the_rows_are_the_papers(dataset):
    row = category(dataset, SETTINGS["train"])
    assert (row.hit_threshold, row.min_span, row.gold_mode, row.free_spans) == (
        0.9,
        5,
        "standard",
        2,
    )


def test_the_settings_are_the_papers():
    train, evaluation = SETTINGS["train"], SETTINGS["eval"]
    assert (train.density_limit, train.math_answer_credit) == (4.0, 0.25)
    assert (evaluation.density_limit, evaluation.math_answer_credit) == (6.0, 0.0)
    assert not train.paper_rule
    assert not evaluation.paper_rule


def test_an_unknown_data_set_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'retreival' has no reward; known are .*retrieval"):
        category("retreival", SETTINGS["train"])


@pytest.mark.parametrize("answers", [(), ("",), ("right", " ")])
def test_a_ground_truth_without_an_answer_is_refused(answers):
    with pytest.raises(ValueError, match=r"'retrieval' has the answers .*give at least one"):
        GroundTruth("retrieval", answers, ())


@pytest.mark.parametrize(
    ("answer", "train", "evaluation"),
    [
        ("aB3dE6gH9k", 1.0, 1.0),
        ("Key 7 has aB3dE6gH9k", 1.0, 1.0),
        ("7", 0.25, 0.0),
        ("key 7: zZ1zZ1zZ1z", 0.25, 0.0),
        ("17", 0.0, 0.0),
        ("5 6 7 8", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_math_retrieval_pays_a_quarter_for_the_number_in_training(answer, train, evaluation):
    assert answer_score(answer, MATHS, SETTINGS["train"]) == train
    assert answer_score(answer, MATHS, SETTINGS["eval"]) == evaluation


def test_retrieval_pays_nothing_for_the_key():
    assert answer_score("7", RETRIEVAL, SETTINGS["train"]) == 0.0


def test_any_of_several_answers_is_right():
    truth = dataclasses.replace(RETRIEVAL, answers=("first", "second"))
    assert answer_score("second", truth, SETTINGS["train"]) == 1.0


def test_the_papers_rule_can_be_switched_on():
    settings = dataclasses.replace(SETTINGS["train"], paper_rule=True)
    listing = "zZ1zZ1zZ1z aB3dE6gH9k 1234567890"
    assert answer_score(listing, RETRIEVAL, SETTINGS["train"]) == 0.0
    assert answer_score(listing, RETRIEVAL, settings) == 1.0
    assert answer_score("17", MATHS, settings) == 0.25
