"""The scores of a row of an evaluation."""

import dataclasses
import sys

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.config.rewards import evaluation_rewards
from recallm_jax.evaluation.rows import row_scores, suite_scores
from recallm_jax.runtime.errors import UserError
from rl.rewards.composite import Completion

ROW = {
    "example_id": "recallm_hotpotqa/3",
    "sample": 1,
    "dataset": "hotpotqa",
    "prompt": "The Rhine is long. Which river?",
    "ground_truth": {"answers": ["the Rhine"], "gold_documents": ["The Rhine is long."]},
    "spans": [{"text": "The Rhine", "closed": True, "occurrences": [{"chars": [0, 9]}]}],
}
RIGHT = Completion("I look.</think>\nAnswer: the Rhine", 9, ("The Rhine",), 1, 1, finished=True)


def scored(function):
    rule = evaluation_rewards(load_config(["--config=configs/quickstart.py:tiny"]))
    return row_scores(ROW, RIGHT, dataclasses.replace(rule, function=function))


def test_a_reward_of_the_users_takes_the_place_of_the_total_and_sees_the_places():
    def own(response, spans, asked):
        assert response == RIGHT.text and asked.prompt[slice(*spans[0].places[0])] == spans[0].text
        return {"total": 0.25, "of_mine": 0.5}

    found = scored(own)
    assert found["reward"] == 0.25 and found["exact_match"] == 1.0
    assert found["components"]["of_mine"] == 0.5 and found["components"]["answer"] == 1.0
    assert scored(None)["reward"] > 0.25 and "of_mine" not in scored(None)["components"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda *_: 1.5, r"a reward of 1.5 is not in \[0, 1\]"),
        (lambda *_: float("nan"), "a reward of nan is not in"),
        (lambda *_: {"mine": 1.0}, "KeyError: 'total'"),
        (lambda *_: None, "TypeError"),
        (lambda *_: sys.exit(3), "SystemExit: 3"),
        (lambda *_: {"total": 1.0, "format": 9.0}, "ValueError: its component 'format' is one"),
    ],
)
def test_a_reward_that_fails_is_one_clear_error(given, reason):
    with pytest.raises(UserError, match=f"recallm_hotpotqa/3, response 1: no reward .{reason}"):
        scored(given)


@pytest.mark.parametrize(
    ("prompt", "response", "score"),
    [
        # A thought that the prompt opens must be closed before anything counts.
        ("<user>…<assistant><think>\n", "It is ABC.", 0.0),
        ("<user>…<assistant><think>\n", "Well.</think> It is ABC.", 1.0),
        # Without a thought all of the response is the answer, unless it opens one itself.
        ("<user>…<assistant>", "It is ABC.", 1.0),
        ("<user>…<assistant>", "<think> It is ABC.", 0.0),
        ("<user>…<assistant>", "<think> ABC?</think> It is.", 0.0),
    ],
)
def test_a_suites_chat_form_reads_what_follows_the_thought_if_there_is_one(prompt, response, score):
    truth = {"answers": ["ABC"], "parts": [["ABC"]]}
    assert suite_scores("ruler_vt_chat", prompt, response, truth)["score"] == score
    assert suite_scores("ruler_vt", prompt, "It is ABC.", truth)["score"] == 1.0
