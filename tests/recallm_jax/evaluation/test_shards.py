"""Evaluations in parts give the rows, order and summary of one process, even after kills."""

import concurrent.futures
import json
import shutil

import pytest

from recallm_jax import evaluate as evaluate_job
from recallm_jax.config.load import load_config
from recallm_jax.evaluation.complete import complete_summaries
from recallm_jax.evaluation.loop import Evaluated, evaluate
from recallm_jax.evaluation.merge import merge
from recallm_jax.evaluation.shards import Shard, parse_shard
from recallm_jax.policy.tiny import tiny_tokenizer
from recallm_jax.runtime.errors import UserError
from tests.oracles.consoles import Listening, toy_context
from tests.oracles.toy_policy import ToyPolicy, random_toy_policy

CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.decoding.max_new_tokens=24",
    "--config.evaluation.num_examples=5",
    "--config.evaluation.samples=2",
    "--config.evaluation.modes=('constrained-sampled',)",
]
MADE_BY = "toy step 0"


@pytest.fixture(scope="module")
def config():
    return load_config(CONFIG)


class Killed(Exception):
    pass


def run(folder, config, shard=None, *, stop_after=None, made_by=MADE_BY):
    """Evaluate a random policy; return the ids of the prompts that it had to answer."""
    tokenizer = tiny_tokenizer()
    toy = random_toy_policy(0, 768)
    policy = ToyPolicy(table=toy.table.at[:, tokenizer.start_recall_id].add(6.0))
    taken = []

    def progress(prompts, title, *, total, done):
        for prompt in prompts:
            if len(taken) == stop_after:
                raise Killed
            yield prompt
            taken.append(prompt.record.example_id)

    context = toy_context(config, Listening(watch=progress))
    evaluate(config, context, policy, Evaluated("toy", made_by, folder), shard)
    return taken


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("whole")
    assert len(run(folder, config)) == 2 * 5
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory, config):
    """Both shards of two, not joined; the second one was killed at work and went on."""
    folder = tmp_path_factory.mktemp("parts")
    first = run(folder, config, Shard(0, 2))
    assert len(first) == 2 * 3 and {int(name[-1]) for name in first} == {0, 2, 4}
    with pytest.raises(Killed):
        run(folder, config, Shard(1, 2), stop_after=3)
    summaries, missing = merge(folder, config)
    # The first of two tasks is complete.
    assert summaries == []
    assert missing == ["recallm_retrieval_val_256 constrained-sampled lacks 1 of 5 prompts"]
    assert contents(folder) == {}
    assert len(run(folder, config, Shard(1, 2))) == 2 * 2 - 3
    return folder


def complete(folder, config, made_by=MADE_BY):
    return complete_summaries(config, toy_context(config), Evaluated("toy", made_by, folder))


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_joined_shards_equal_the_whole_byte_for_byte(whole, parts, config, tmp_path):
    folder = copy_of(parts, tmp_path)
    summaries, missing = merge(folder, config)
    assert missing == [] and summaries == json.loads((whole / "summary.json").read_text())
    assert contents(folder) == contents(whole)
    # Joining again, by another process, gives the same.
    assert merge(folder, config, by=".1_of_2") == (summaries, [])
    assert contents(folder) == contents(whole)
    assert complete(folder, config) == summaries


def test_shards_that_end_together_leave_no_partial_file(parts, config, tmp_path):
    """Each may find all shards complete, and join them while others do."""
    folder = copy_of(parts, tmp_path)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            list(pool.map(lambda name: merge(folder, config, by=name), [".1", ".2", ".3", ".4"]))
    assert not list(folder.glob("*.partial"))


def test_other_parts_go_on_with_the_rows_that_are_there(whole, parts, config, tmp_path):
    folder = copy_of(parts, tmp_path)
    shutil.rmtree(folder / "shards" / "1_of_2")
    # Every third prompt from the second on is 1 and 4; the first shard of two has answered 4.
    assert {int(name[-1]) for name in run(folder, config, Shard(1, 3))} == {1}
    # One process does the rest.
    assert {int(name[-1]) for name in run(folder, config)} == {3}
    assert contents(folder) == contents(whole)


def test_an_evaluation_with_a_missing_row_is_not_complete(whole, config, tmp_path):
    folder = copy_of(whole, tmp_path)
    assert complete(folder, config) is not None
    more = load_config([*CONFIG, "--config.evaluation.num_examples=6"])
    assert complete(folder, more) is None
    with pytest.raises(UserError, match="was made with policy = 'toy step 0', not 'toy step 1'"):
        complete(folder, config, "toy step 1")
    path = folder / "recallm_retrieval_val_256.constrained-sampled.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert complete(folder, config) is None


def test_shards_of_two_policies_or_configs_are_never_joined(parts, config, tmp_path):
    folder = copy_of(parts, tmp_path)
    with pytest.raises(UserError, match="0_of_2 was made with policy = 'toy step 0', not 'toy s"):
        run(folder, config, Shard(0, 3), made_by="toy step 1")
    seed = load_config([*CONFIG, "--config.seed=1"])
    with pytest.raises(UserError, match=r"0_of_2 was made with config\.seed = 0, not 1"):
        merge(folder, seed)
    fewer = load_config([*CONFIG, "--config.evaluation.num_examples=4"])
    run(folder, fewer, Shard(0, 2))
    with pytest.raises(UserError, match=r"has 5 records of .*, another shard 4; run all shards"):
        merge(folder, config)


def test_the_job_joins_shards_and_scores_again_without_a_device(parts, whole, tmp_path, capsys):
    copy_of(parts, tmp_path / "eval")
    given = [*CONFIG, f"--workdir={tmp_path}", "--label=copy"]
    assert evaluate_job.main([*given, "--rescore"]) == 2
    assert "holds no rows; join its shards with --merge first" in capsys.readouterr().err
    assert evaluate_job.main([*given, "--merge"]) == 0
    assert "exact match" in capsys.readouterr().out
    assert contents(tmp_path / "eval" / "copy") == contents(whole)


@pytest.mark.parametrize("text", ["4/4", "1", "-1/2", "1/2/3", "a/b", "0/0"])
def test_an_impossible_shard_is_refused(text):
    with pytest.raises(UserError, match=rf"--shard={text} must be i/n with i from 0 to n - 1"):
        parse_shard(text)


def test_a_shard_is_counted_from_0():
    assert parse_shard("0/3") == Shard(0, 3) and parse_shard("2/3") == Shard(2, 3)
