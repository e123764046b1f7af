"""RULER's metrics, by hand."""

import pytest

from tasks.suites.registry import find_task, overall, suite_tasks
from tasks.suites.ruler import scores
from tasks.suites.ruler.scores import across


def test_predictions_are_cleaned_as_the_benchmark_cleans_them():
    assert scores.clean(" \x00a\tb\x1f\n ") == "a\nb"
    assert scores.clean("\x00\x01") == ""


def test_every_reference_counts_its_share():
    task = find_task("ruler_niah_multivalue")
    truth = {"answers": ["1, 22, 333, 4444"], "parts": [["1"], ["22"], ["333"], ["4444"]]}
    # 4444 is not there; 1 is, inside another number; order and other text are free.
    row = task.score("\tthey are 333 and 221!\n", truth)
    assert row == {"string_match_all": 0.75, "empty": 0.0}
    assert task.score("\x00", truth) == {"string_match_all": 0.0, "empty": 1.0}
    # With the benchmark's prompt a thought is scored like any text.
    assert task.score("1 22 333 4444</think>", truth)["string_match_all"] == 1.0
    assert find_task("ruler_fwe").score("ABC", {"parts": [["aBc"]]})["string_match_all"] == 1.0


def test_any_reference_is_enough_for_a_question():
    task = find_task("ruler_qa_1")
    truth = {"answers": ["The Rhine", "Rhine", "Rhine"]}
    assert task.score("RHINELAND", truth) == {"string_match_part": 1.0, "empty": 0.0}
    assert task.score("the Elbe", truth) == {"string_match_part": 0.0, "empty": 0.0}


def test_the_chat_form_scores_the_text_after_the_thought():
    task = find_task("ruler_qa_1_chat")
    truth = {"answers": ["Rhine"]}
    assert task.score("Rhine?</think>\nAnswer: the Rhine", truth)["string_match_part"] == 1.0
    assert task.score("Rhine?</think>\nAnswer: the Elbe", truth)["string_match_part"] == 0.0
    assert task.score("Rhine? Rhine! Answer: Rhine", truth) == {
        "string_match_part": 0.0,
        "empty": 1.0,
    }


def test_a_task_is_rounded_to_two_decimals_and_empty_predictions_are_counted():
    rows = [{"string_match_all": s, "empty": e} for s, e in ((1.0, 0.0), (0.25, 0.0), (0.0, 1.0))]
    assert find_task("ruler_vt").aggregate(rows) == {"string_match_all": 41.67, "empty": 1.0}


def test_a_length_is_the_plain_mean_of_all_thirteen():
    values = {task.name: 86.0 for task in suite_tasks(["ruler"])}
    assert overall("ruler", values) == {"mean": 86.0, "reaches_85_6": 1.0}
    values["ruler_vt"] = 80.0  # 86 - 6/13 = 85.54
    result = overall("ruler", values)
    assert result["mean"] == pytest.approx(85.538, abs=1e-3) and result["reaches_85_6"] == 0.0
    del values["ruler_vt"]
    assert overall("ruler", values) is None


def test_the_effective_length_is_the_longest_up_to_which_all_means_reach_the_threshold():
    def over(**means):
        return across({int(name[1:]): {"mean": mean} for name, mean in means.items()})

    assert over(n4096=90.0, n8192=85.6, n16384=85.59) == {
        "mean": pytest.approx(87.0633, abs=1e-3),
        "effective_length": 8192,
    }
    # A mean that recovers at a longer length does not count.
    assert over(n4096=90.0, n8192=80.0, n16384=95.0)["effective_length"] == 4096
    assert over(n4096=85.5, n8192=99.0)["effective_length"] == 0
