"""Suites in an evaluation: their rows, their own metrics, and configs without a mixture."""

import dataclasses
import json

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.data.settings import mixture_rates
from recallm_jax.evaluation import loop
from recallm_jax.evaluation.files import read_rows
from recallm_jax.evaluation.loop import Evaluated, evaluate
from recallm_jax.evaluation.rescore import rescore
from recallm_jax.evaluation.respond import padded_length
from recallm_jax.evaluation.rows import suite_scores
from recallm_jax.evaluation.shards import Shard
from recallm_jax.evaluation.summaries import across_lengths, format_table, overall_rows, suite_task
from recallm_jax.evaluation.tasks import evaluation_tasks
from recallm_jax.policy.setup import check_lengths
from recallm_jax.policy.tiny import TINY
from recallm_jax.runtime.errors import UserError
from tasks.suites import registry
from tasks.suites.registry import suite_tasks
from tests.oracles.consoles import toy_context
from tests.oracles.reward_rules import EVAL
from tests.oracles.toy_policy import random_toy_policy

CONFIG = ["--config=configs/eval_ruler.py:tiny", "--config.decoding.max_new_tokens=40"]
SUITES = "--config.evaluation.suites=('ruler_vt','ruler_niah_multikey_2_chat')"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suites")
    config = load_config([*CONFIG, SUITES, "--config.evaluation.lengths=700"])
    return folder, toy_summaries(config, folder)


def toy_summaries(config, folder):
    toy = Evaluated("toy", "toy step 0", folder)
    return evaluate(config, toy_context(config), random_toy_policy(0, 768), toy)


def test_rows_of_suites_have_scores_and_limits_of_their_own(finished):
    folder, summaries = finished
    files = sorted(path.name for path in folder.glob("*.jsonl"))
    assert files == [
        "ruler_niah_multikey_2_chat_700.unconstrained-greedy.jsonl",
        "ruler_vt_700.unconstrained-greedy.jsonl",
    ]
    # vt sets 30 new tokens itself; the chat form has those of the config.
    for file, task, limit in zip(
        files, ("ruler_niah_multikey_2_chat", "ruler_vt"), (40, 30), strict=True
    ):
        rows = read_rows(folder / file)
        assert len(rows) == 2
        for row in rows:
            assert (row["dataset"], row["task"], row["target_length"]) == (task, f"{task}_700", 700)
            assert row["finished"] or row["completion_tokens"] == limit
            assert row["score"] == row["reward"] == row["components"]["string_match_all"]
    assert [row["metric"] for row in summaries] == ["string_match_all"] * 2
    assert json.loads((folder / "summary.json").read_text()) == summaries
    assert not (folder / "suites.json").exists()


def test_rows_are_scored_again_without_a_policy(finished):
    folder, _ = finished
    path = folder / "ruler_vt_700.unconstrained-greedy.jsonl"
    rows = read_rows(path)
    names = [aliases[0] for aliases in rows[0]["ground_truth"]["parts"]]
    rows[0]["completion"] = " ".join(names[:4]).lower()
    rows[1]["completion"] = "\x00 "
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = next(row for row in rescore(folder, EVAL) if row["dataset"] == "ruler_vt")
    assert summary["metrics"] == {"string_match_all": 40.0, "empty": 1.0}
    assert summary["reward"] == 0.4 and summary["exact_match"] == 0.0
    first, second = read_rows(path)
    assert (first["score"], first["reward"], first["exact_match"]) == (0.8, 0.8, 0.0)
    assert second["components"] == {"string_match_all": 0.0, "empty": 1.0}
    assert "string_match_all 40.00, empty 1.00" in format_table([summary])


def test_a_whole_suite_has_a_line_of_its_own():
    def summary(name, length, value):
        return {
            "label": "x",
            "task": name,
            "dataset": name,
            "target_length": length,
            "mode": "m",
            "metric": "a",
            "metrics": {"a": value},
        }

    names = [task.name for task in suite_tasks(["ruler"])]
    rows = [summary(name, 4096, 90.0) for name in names]
    rows += [summary(name, 8192, 80.0) for name in names[1:]]
    (row,) = overall_rows(rows)
    assert (row["suite"], row["target_length"]) == ("ruler", 4096)
    assert row["metrics"] == {"mean": 90.0, "reaches_85_6": 1.0}
    rows.append(summary(names[0], 8192, 80.0))
    (both,) = across_lengths(overall_rows(rows))
    assert both["metrics"] == {"mean": 85.0, "effective_length": 4096}
    assert (both["lengths"], both["suite"], both["mode"]) == ([4096, 8192], "ruler", "m")


def test_tasks_are_those_of_the_mixture_and_of_the_suites():
    arguments = ["--config=configs/quickstart.py:tiny", "--config.evaluation.suites=ruler_vt"]
    names = [task.name for task in evaluation_tasks(load_config(arguments))]
    assert names == ["recallm_math_retrieval_val_256", "recallm_retrieval_val_256", "ruler_vt_256"]


def test_only_tasks_of_suites_have_scores_of_their_own():
    assert suite_scores("retrieval", "", "x", {"answers": ["x"]}) is None
    scores = suite_scores("ruler_qa_1", "", "X.", {"answers": ["x"]})
    assert scores["score"] == scores["reward"] == scores["exact_match"] == 1.0


def test_a_data_set_is_scored_without_a_look_at_the_suites(monkeypatch):
    def no_look():
        raise AssertionError("a suite's tasks were made")

    monkeypatch.setattr(registry, "_all_tasks", no_look)
    assert suite_task("retrieval") is None and suite_scores("retrieval", "", "x", {}) is None
    with pytest.raises(AssertionError):
        suite_task("ruler_vt")


def test_a_config_without_a_mixture_does_not_train():
    with pytest.raises(UserError, match="there is nothing to train on; give a data set a share"):
        mixture_rates(load_config(CONFIG))


def test_lengths_that_count_the_response_may_fill_the_models_context():
    plain = load_config([*CONFIG, "--config.evaluation.lengths=32768"])
    check_lengths(plain, TINY)
    chat = load_config([*CONFIG, SUITES, "--config.evaluation.lengths=32768"])
    with pytest.raises(
        UserError, match=r"evaluation.lengths = 32768 .* exceeds the model's context"
    ):
        check_lengths(chat, TINY)


def test_a_users_suite_takes_the_place_of_ours(monkeypatch):
    monkeypatch.setattr(registry, "SUITES", dict(registry.SUITES))
    monkeypatch.setattr(registry, "OVERALL", dict(registry.OVERALL))
    (vt,) = suite_tasks(["ruler_vt"])
    mine = dataclasses.replace(vt, name="mine_vt")
    registry.register("mine", lambda: (mine,))
    registry.register("helmet", lambda: (dataclasses.replace(vt, name="helmet_vt"),))
    try:
        assert [task.name for task in suite_tasks(["mine", "helmet"])] == ["mine_vt", "helmet_vt"]
        assert registry.overall("mine", {"mine_vt": 40.0, "ruler_vt": 1.0}) == {"mean": 40.0}
        assert registry.find_task("mine_vt") is mine
    finally:
        registry._all_tasks.cache_clear()


def test_a_task_without_prompts_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "SUITES", dict(registry.SUITES))
    monkeypatch.setattr(registry, "OVERALL", dict(registry.OVERALL))
    (vt,) = suite_tasks(["ruler_vt"])
    empty = dataclasses.replace(vt, name="mine_empty", records=lambda *arguments: [])
    registry.register("mine", lambda: (empty,))
    options = ["--config.evaluation.suites=('mine',)", "--config.evaluation.lengths=700"]
    try:
        with pytest.raises(UserError, match="task mine_empty_700 has no prompts; leave its length"):
            toy_summaries(load_config([*CONFIG, *options]), tmp_path)
    finally:
        registry._all_tasks.cache_clear()


def test_the_data_sets_of_a_mixture_that_are_named_are_evaluated():
    options = ["--config=configs/quickstart.py:tiny", "--config.evaluation.lengths=256,512"]
    assert len(evaluation_tasks(load_config(options))) == 4
    named = load_config([*options, "--config.evaluation.datasets=math_retrieval"])
    names = [task.name for task in evaluation_tasks(named)]
    assert names == ["recallm_math_retrieval_val_256", "recallm_math_retrieval_val_512"]
    with pytest.raises(UserError, match=r"evaluation.datasets: 'musique' is no data set of the m"):
        load_config([*options, "--config.evaluation.datasets=math_retrieval,musique"])


@pytest.mark.parametrize(
    ("longest", "target", "padded"),
    [
        *[(600, 4096, 1024), (4000, 4096, 4096), (6500, 7168, 7168), (600, 1024, 640)],
        *[(240, 256, 256), (700, 700, 700), (5000, 4096, 5120)],
    ],
)
def test_prompts_are_padded_to_about_the_longest(longest, target, padded):
    assert padded_length(longest, target) == padded


def test_all_shards_pad_to_the_longest_prompt_of_the_task(tmp_path, monkeypatch):
    """So that a response is computed alike in whichever shard it lies."""
    rows = [
        {
            "question": f"How many boats lie in harbour {number}?",
            "answer": f"{number + 20} boats",
            "document": f"In harbour {number} lie {number + 20} boats. " * (1 + 40 * number),
            "evidence": f"In harbour {number} lie {number + 20} boats.",
        }
        for number in range(2)
    ]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    for split in ("train", "validation"):
        (tmp_path / f"own_questions_{split}.jsonl").write_text(text, encoding="utf-8")
    asked = []

    def answer(config, context, policy, sheet, rows):
        asked.append(sheet.asked)
        return rows

    monkeypatch.setattr(loop, "answer_missing", answer)
    config = load_config(
        [
            *("--config=configs/mixture.py:of=own,tiny", "--config.data.source=generated"),
            *(f"--config.data.dir={tmp_path}", "--config.evaluation.lengths=2048"),
            *("--config.evaluation.num_examples=2", "--config.evaluation.modes=constrained-greedy"),
        ]
    )
    toy = Evaluated("toy", "toy step 0", tmp_path / "eval")
    for number in range(2):
        shard = Shard(number, 2)
        evaluate(config, toy_context(config), random_toy_policy(0, 768), toy, shard)
    prompts = [len(one.records[0].inputs) for one in asked]
    assert [len(one.records) for one in asked] == [1, 1] and prompts[0] != prompts[1]
    assert padded_length(min(prompts), 2048) < padded_length(max(prompts), 2048) < 2048
    # That of both together.
    assert {one.length for one in asked} == {padded_length(max(prompts), 2048)}
