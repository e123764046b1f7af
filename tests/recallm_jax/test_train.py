"""The training job from end to end, tiny: its files, and how it resumes."""

import gzip
import importlib
import itertools
import json
import re
import shutil

import jax
import jaxtyping
import numpy as np
import pytest

from recallm_jax import evaluate, train
from recallm_jax.config.load import load_config
from recallm_jax.policy import checkpoint
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.metrics import read_metrics
from recallm_jax.training.restore import placed_state
from recallm_jax.training.stages import plan_stages
from tests.oracles import even_tokens, tiny_run
from tests.oracles.tiny_run import CONFIG

# TensorBoard's writer and Orbax warn about their own code.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_run_leaves_metrics_and_evaluations_of_every_stage(trained_run):
    rows = read_metrics(trained_run / "metrics.jsonl")
    assert [(row["stage"], row["step"]) for row in rows] == [
        (stage, step) for stage in ("sft1", "sft2", "grpo") for step in (0, 1)
    ]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert {"reward", "kl", "entropy", "grad_norm", "sampler_log_prob_error"} <= set(rows[-1])
    for row in rows:
        assert 0 < row["seconds_update"] <= row["seconds_step"] and 0 < row["padding"] < 1
        # A processor has no utilisation.
        assert row["tokens_per_second_update"] > 0 and "mfu_update" not in row
    assert {"seconds_rollout", "seconds_reward", "seconds_scores"} <= set(rows[-1])
    for label in ("start", "cold_start", "grpo"):
        summary = json.loads((trained_run / "eval" / label / "summary.json").read_text())
        assert {(row["dataset"], row["n"]) for row in summary} == {
            ("retrieval", 2),
            ("math_retrieval", 2),
        }


def test_a_checkpoint_keeps_the_sizes_of_rows_that_its_stage_chose(trained_run):
    """Demonstrations are much shorter than the limit, so a smaller size than its own is chosen."""
    paths = sorted(trained_run.glob("checkpoints/sft2/*/metadata/metadata"))
    kept = json.loads(paths[-1].read_text())["run"]
    assert kept["step"] == 2
    limit = load_config(CONFIG).decoding.max_new_tokens
    *smaller, full = kept["row_sizes"]
    assert full == [1, limit] and smaller and all(size[1] < limit for size in smaller)


def test_phase_one_trains_only_the_four_new_rows(trained_run):
    config = load_config(CONFIG)
    context = set_up(config)
    stage = plan_stages(config, context)[0]
    folder = trained_run / "checkpoints" / "sft1"
    with checkpoint.open_manager(folder, keep=2) as manager:
        state, _ = checkpoint.restore_latest(manager, placed_state(context.policy, stage, context))
    changed = jax.tree.map(lambda a, b: np.asarray(a != b), state.policy, context.policy)
    rows = np.flatnonzero(changed.embedding[...].any(axis=1))
    tokenizer = context.tokenizer
    assert set(rows) <= {
        tokenizer.start_recall_id,
        tokenizer.end_recall_id,
        tokenizer.think_id,
        tokenizer.end_think_id,
    }
    assert tokenizer.start_recall_id in rows
    assert not any(leaf.any() for leaf in jax.tree.leaves(changed.layers))


def test_every_step_of_grpo_has_a_gradient_and_moves_the_parameters(trained_run, copied_run):
    for row in tiny_run.metrics_of(trained_run, "grpo"):
        assert row["groups_with_spread"] > 0 and row["grad_norm"] > 1e-3
    policies = []
    for made_by in (("grpo", 2), ("grpo", 1), ("sft2", 2)):
        policy, *found = tiny_run.newest_policy(copied_run)
        assert tuple(found) == made_by
        policies.append(policy)
        shutil.rmtree(copied_run / "checkpoints" / made_by[0] / str(made_by[1]))
    for after, before in itertools.pairwise(policies):
        moved = jax.tree.map(lambda a, b: abs(a - b).max(), after, before)
        assert all(way > 1e-4 for way in jax.tree.leaves(moved))


@pytest.fixture(scope="module")
def resumed_run(trained_run, tmp_path_factory):
    """The run as if killed after GRPO's first step, and resumed with a trace of the second."""
    folder = shutil.copytree(trained_run, tmp_path_factory.mktemp("resumed") / "run")
    # Later files are gone.
    shutil.rmtree(folder / "checkpoints" / "grpo" / "2")
    shutil.rmtree(folder / "eval" / "grpo")
    with even_tokens.rewarded():
        assert train.main([*CONFIG, f"--workdir={folder}", "--profile=grpo:1"]) == 0
    return folder


def test_a_trace_of_a_step_names_its_parts_and_programs(resumed_run):
    (folder,) = (resumed_run / "profile" / "plugins" / "profile").iterdir()
    assert len(list(folder.glob("*.xplane.pb"))) == len(list(folder.glob("*.trace.json.gz"))) == 1
    with gzip.open(folder / "perfetto_trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    (step,) = (event for event in events if event.get("name") == "grpo")
    assert step["args"]["step_num"] == "1"
    names = {event.get("name") for event in events}
    assert {"data", "rollout", "reward", "scores", "update"} <= names
    calls = {f"PjitFunction({name})" for name in ("score_parts", "policy_gradient")}
    assert calls <= names


def test_an_interrupted_run_ends_with_the_same_parameters(trained_run, resumed_run):
    expected, got = tiny_run.newest_policy(trained_run), tiny_run.newest_policy(resumed_run)
    assert got[1:] == expected[1:] == ("grpo", 2)
    jax.tree.map(np.testing.assert_array_equal, got[0], expected[0])
    # Samples, rewards and the comparison with the reference are the same, to the last bit.
    rows = tiny_run.metrics_of(resumed_run, "grpo")
    assert rows == tiny_run.metrics_of(trained_run, "grpo")
    first, second = rows
    assert {"reward", "response_tokens", "kl", "grad_norm"} <= set(second)
    assert first["reward"] != second["reward"] and second["kl"] > 1e-5
    for path in (trained_run / "eval" / "grpo").iterdir():
        assert (resumed_run / "eval" / "grpo" / path.name).read_bytes() == path.read_bytes()


def test_a_baseline_learns_to_answer_at_once_and_only_it_is_evaluated(tmp_path):
    arguments = ["--config.stages=('sft2',)", "--config.sft2.steps=1"]
    arguments += ["--config.data.thinking=False", "--config.decoding.constrained=False"]
    arguments += ["--config.evaluation.policies=('cold_start',)"]
    assert train.main([*CONFIG, *arguments, f"--workdir={tmp_path}"]) == 0
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["cold_start"]
    paths = sorted((tmp_path / "eval" / "cold_start").glob("*.jsonl"))
    assert len(paths) == 2
    for path in paths:
        row = json.loads(path.read_text().splitlines()[0])
        assert "<think>\n" not in row["prompt"][-12:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir={tmp}", "--profile=grpo:2"], "--profile=grpo:2 is no range of steps of"),
        (["--workdir={tmp}/none", "--config.model.weights=none.whl"], "none.whl does not exist"),
        (
            ["--workdir={tmp}", "--config.data.target_length=40000"],
            "config.data.target_length = 40000 with decoding.max_new_tokens = 160 exceeds",
        ),
        (
            ["--workdir={tmp}", "--config.data.source=jsonl:{tmp}/train.jsonl"],
            "recallm_math_retrieval_val_256.jsonl does not exist; write it with",
        ),
        (
            ["--workdir={tmp}", "--config.data.thinking=False"],
            "config.data.thinking = False with the stage grpo: its reward asks for a thought",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(arguments, message, tmp_path, capsys):
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert train.main([*CONFIG, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_dry_run_shows_the_stages_and_writes_nothing(tmp_path, capsys, monkeypatch):
    # Arrays that are only described are no arrays.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    folder = tmp_path / "run"
    assert train.main([*CONFIG, f"--workdir={folder}", "--dry_run"]) == 0
    assert not folder.exists()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    # Steps, prompts, responses, and tokens: prompts of 256 with a response or two of 160.
    assert [row[:5] for row in rows] == [
        ["sft1", "2", "2", "2", "832"],
        ["sft2", "2", "2", "2", "832"],
        ["grpo", "2", "2", "4", "1,152"],
    ]
    assert all(float(row[5]) > 0 and row[6] == "not known" for row in rows)
    assert "nothing was written" in lines[-1]


def test_a_dry_run_finds_what_a_run_would(tmp_path, capsys):
    mistake = "--config.data.target_length=128"
    assert train.main([*CONFIG, f"--workdir={tmp_path / 'run'}", "--dry_run", mistake]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert "raise target_length" in error


def test_a_run_without_examples_is_not_evaluated(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = [
        *("--config=configs/quickstart.py:tiny", f"--workdir={folder}"),
        *("--config.stages=sft1", "--config.sft1.steps=1", "--config.evaluation.num_examples=0"),
    ]
    assert train.main(arguments) == 0
    assert (folder / "checkpoints" / "sft1" / "1").exists() and not (folder / "eval").exists()
    assert evaluate.main(arguments[:2] + arguments[4:]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == (
        "error: config.evaluation.num_examples = 0 leaves nothing to evaluate; give at least 1"
    )


def test_a_failed_start_leaves_its_folder_free(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert train.main([*CONFIG, f"--workdir={workdir}", "--config.model.weights=none.whl"]) == 2
    assert "none.whl does not exist" in capsys.readouterr().err
    assert not workdir.exists()


def test_the_eight_parts_of_a_step_name_functions_that_exist():
    parts = re.findall(r"^ +(\d)\. .+?  +(\S+)\.py +(\w+)$", train.__doc__, re.MULTILINE)
    assert [number for number, _, _ in parts] == list("12345678")
    for _, file, name in parts:
        package = "" if file.startswith("rl/") else "recallm_jax."
        module = importlib.import_module(package + file.replace("/", "."))
        assert callable(getattr(module, name)), name
