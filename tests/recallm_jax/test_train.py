"""The training job from end to end, tiny: what it writes, resume, and devices."""

import dataclasses
import itertools
import json
import re
import shutil

import jax
import numpy as np
import pytest

from decoding.sampling import Sampling
from recallm_jax import convert, evaluate, generate, train
from recallm_jax.config.load import load_config
from recallm_jax.evaluation.question import DocumentQuestion, answer
from recallm_jax.policy import checkpoint
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.metrics import read_metrics
from recallm_jax.training import rollouts
from recallm_jax.training.restore import placed_state, restore_policy
from recallm_jax.training.stages import plan_stages
from tests.oracles import even_tokens
from tests.oracles.loops import for_each

# TensorBoard's writer and Orbax warn about their own insides.
pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.evaluation.modes=('constrained-greedy',)",
    # High enough that the second step's policy is measurably not the reference.
    "--config.optimizer.learning_rate=1e-3",
]


@pytest.fixture(scope="module", autouse=True)
def reward_with_spread():
    """Reward what a random model can do: GRPO learns nothing from responses that all get 0."""
    reward_groups = rollouts.reward_groups

    def share_of_even_tokens(rollout, *arguments, **options):
        return even_tokens.rewarded(rollout, reward_groups(rollout, *arguments, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "reward_groups", share_of_even_tokens)
        yield


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    assert train.main([*CONFIG, f"--workdir={workdir}"]) == 0
    return workdir


def newest_policy(workdir):
    """Return the policy of a run's newest checkpoint, and which that is."""
    config = load_config(CONFIG)
    policy, stage, step = restore_policy(config, set_up(config), workdir)
    return jax.device_get(policy), stage.name, step


def metrics_of(workdir, stage):
    """Return the metrics of each step, without the time they were written at."""
    rows = read_metrics(workdir / "metrics.jsonl")
    return [
        {name: value for name, value in row.items() if name != "time"}
        for row in rows
        if row["stage"] == stage
    ]


def test_a_run_leaves_metrics_and_evaluations_of_every_stage(finished_run):
    rows = read_metrics(finished_run / "metrics.jsonl")
    assert [(row["stage"], row["step"]) for row in rows] == [
        (stage, step) for stage in ("sft1", "sft2", "grpo") for step in (0, 1)
    ]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert {"reward", "kl", "entropy", "grad_norm", "sampler_log_prob_error"} <= set(rows[-1])
    for label in ("start", "cold_start", "grpo"):
        summary = json.loads((finished_run / "eval" / label / "summary.json").read_text())
        assert {(row["dataset"], row["n"]) for row in summary} == {
            ("retrieval", 2),
            ("math_retrieval", 2),
        }


def test_phase_one_trains_the_four_new_rows_alone(finished_run):
    config = load_config(CONFIG)
    context = set_up(config)
    stage = plan_stages(config, context)[0]
    folder = finished_run / "checkpoints" / "sft1"
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


def test_every_step_of_grpo_has_a_gradient_and_moves_the_parameters(finished_run, tmp_path):
    for row in metrics_of(finished_run, "grpo"):
        assert row["groups_with_spread"] > 0 and row["grad_norm"] > 1e-3
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    policies = []
    for made_by in (("grpo", 2), ("grpo", 1), ("sft2", 2)):
        policy, *found = newest_policy(copy)
        assert tuple(found) == made_by
        policies.append(policy)
        shutil.rmtree(copy / "checkpoints" / made_by[0] / str(made_by[1]))
    for after, before in itertools.pairwise(policies):
        moved = jax.tree.map(lambda a, b: abs(a - b).max(), after, before)
        assert all(way > 1e-4 for way in jax.tree.leaves(moved))


def test_an_interrupted_run_ends_with_the_same_parameters(finished_run, tmp_path):
    resumed = tmp_path / "resumed"
    shutil.copytree(finished_run, resumed)
    # As if killed after GRPO's first step: what came later is gone.
    shutil.rmtree(resumed / "checkpoints" / "grpo" / "2")
    shutil.rmtree(resumed / "eval" / "grpo")
    assert train.main([*CONFIG, f"--workdir={resumed}"]) == 0
    expected, got = newest_policy(finished_run), newest_policy(resumed)
    assert got[1:] == expected[1:] == ("grpo", 2)
    jax.tree.map(np.testing.assert_array_equal, got[0], expected[0])
    # What was sampled, rewarded and compared with the reference is the same, to the last bit.
    rows = metrics_of(resumed, "grpo")
    assert rows == metrics_of(finished_run, "grpo")
    first, second = rows
    assert {"reward", "response_tokens", "kl", "grad_norm"} <= set(second)
    assert first["reward"] != second["reward"] and second["kl"] > 1e-5
    for path in (finished_run / "eval" / "grpo").iterdir():
        assert (resumed / "eval" / "grpo" / path.name).read_bytes() == path.read_bytes()


def test_saved_completions_are_scored_again_without_a_model(finished_run, capsys):
    folder = finished_run / "eval" / "grpo"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    arguments = [*CONFIG, f"--workdir={finished_run}", "--label=grpo", "--rescore"]
    assert evaluate.main(arguments) == 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert "exact match" in capsys.readouterr().out


def test_an_evaluation_goes_on_where_it_stopped(finished_run, tmp_path):
    folder = finished_run / "eval" / "grpo"
    (path,) = folder.glob("recallm_retrieval_*.jsonl")
    rows = path.read_text()
    first, second = rows.splitlines(keepends=True)
    path.write_text(first + second[:40])
    assert evaluate.main([*CONFIG, f"--workdir={finished_run}"]) == 0
    assert path.read_text() == rows


def test_a_prompt_without_all_its_responses_is_evaluated_again(finished_run, tmp_path):
    sampled = [*CONFIG, "--config.evaluation.modes=('constrained-sampled',)"]
    arguments = [*sampled, "--config.evaluation.samples=3", f"--workdir={finished_run}"]
    assert evaluate.main([*arguments, "--label=sampled"]) == 0
    folder = finished_run / "eval" / "sampled"
    (path,) = folder.glob("recallm_retrieval_*-sampled.jsonl")
    rows = path.read_text()
    lines = rows.splitlines(keepends=True)
    assert len(lines) == 6
    path.write_text("".join(lines[:4]))
    assert evaluate.main([*arguments, "--label=sampled"]) == 0
    assert path.read_text() == rows


def test_fewer_prompts_are_summed_up_without_losing_the_others(finished_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    fewer = ["--config.evaluation.num_examples=1", f"--workdir={copy}"]
    assert evaluate.main([*CONFIG, *fewer]) == 0
    summary = json.loads((copy / "eval" / "grpo" / "summary.json").read_text())
    assert [row["n"] for row in summary] == [1, 1]
    for path in (copy / "eval" / "grpo").glob("*.jsonl"):
        assert path.read_text() == (finished_run / "eval" / "grpo" / path.name).read_text()


def test_a_policy_in_the_middle_of_its_stage_has_a_label_of_its_own(finished_run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    shutil.rmtree(copy / "checkpoints" / "grpo" / "2")
    before = (copy / "eval" / "grpo" / "summary.json").read_text()
    assert evaluate.main([*CONFIG, f"--workdir={copy}"]) == 0
    assert (copy / "eval" / "grpo_step1" / "summary.json").exists()
    # The folder of another policy's rows is never added to.
    assert evaluate.main([*CONFIG, f"--workdir={copy}", "--label=grpo"]) == 2
    error = capsys.readouterr().err
    assert "was made with policy = 'grpo step 2', not 'grpo step 1'" in error
    assert (copy / "eval" / "grpo" / "summary.json").read_text() == before


def test_a_trained_policy_is_written_as_weights_that_a_run_can_start_from(
    finished_run, tmp_path, capsys
):
    out = tmp_path / "weights"
    assert convert.main([*CONFIG, f"--workdir={finished_run}", f"--out={out}"]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {out}: grpo step 2\n")
    again = set_up(load_config([*CONFIG, f"--config.model.weights={out}"]))
    trained, _, _ = newest_policy(finished_run)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.policy.layers), trained.layers)
    np.testing.assert_array_equal(again.policy.embedding[...], trained.embedding[...])
    assert again.tokenizer.to_json() == set_up(load_config(CONFIG)).tokenizer.to_json()


def test_checkpoints_are_compared_in_one_table(finished_run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run, copy)
    folder = copy / "checkpoints" / "grpo"
    # One is damaged, and its evaluation lost; the run is writing another.
    (folder / "2" / "metadata" / "metadata").write_text("{")
    shutil.rmtree(copy / "eval" / "grpo")
    (folder / "3.orbax-checkpoint-tmp").mkdir()
    before = sorted(copy.glob("checkpoints/**/*"))
    names = "--checkpoints=start,sft2/2,grpo/2,grpo/1"
    arguments = [*CONFIG, f"--workdir={copy}", names]
    assert evaluate.main(arguments) == 2
    told = capsys.readouterr()
    found = re.search(r"error: 1 not evaluated: grpo/2: checkpoint (\S+) can't be read", told.err)
    assert found and found[1] == str(folder / "2")
    assert "start: all rows are there\ncold_start: all rows are there\n" in told.out
    table = told.out.rpartition("\n\n")[2].splitlines()[1:]
    labels = ["start", "cold_start", "grpo_step1"]
    assert [line.split()[:2] for line in table] == [
        [label, f"{task}_val_256"] for task in ("math_retrieval", "retrieval") for label in labels
    ]
    made = json.loads((copy / "eval" / "grpo_step1" / "config.json").read_text())
    assert made["policy"] == "grpo step 1"
    assert sorted(copy.glob("checkpoints/**/*")) == before
    # Without the damaged one nothing is left to do, and a shard has none either.
    names = "--checkpoints=grpo/1,start"
    assert evaluate.main([*CONFIG, f"--workdir={copy}", names, "--shard=1/2"]) == 0
    assert "start: all rows are there" in capsys.readouterr().out


def test_generate_shows_each_span_beside_its_place(tmp_path, capsys):
    document = tmp_path / "document.txt"
    document.write_text("The lamp was lit in 1874.\nAda Thorne kept it.\n")
    arguments = [f"--document={document}", "--question=Who kept the lamp?", "--quote_first"]
    assert generate.main([*CONFIG, *arguments]) == 0
    out = capsys.readouterr().out
    assert "recall span 1" in out and "of the prompt: …" in out


@for_each("seed", range(4))
def test_a_spans_places_hold_its_text_to_the_character(seed):
    limits = ("--config.decoding.max_new_tokens=40", "--config.decoding.max_recall_length=16")
    config = load_config([*CONFIG, f"--config.seed={seed}", *limits])
    context = set_up(config)
    document = "Zürich, 40 km: ½ day by 🚲, ½ hour by 🚆.\n東京: ½ day by 🚲.\n"
    asked = DocumentQuestion(document, "How far?", quote_first=True)
    row = answer(config, context, context.policy, asked, Sampling(temperature=1.0))
    closed = [span for span in row["spans"] if span["closed"]]
    assert closed
    for span in closed:
        assert span["verbatim"] and span["count"] >= len(span["occurrences"]) >= 1
        assert {row["prompt"][slice(*place["chars"])] for place in span["occurrences"]} == {
            span["text"]
        }
        assert row["completion"][slice(*span["response_chars"])] == span["text"]


@pytest.mark.parametrize(
    ("job", "arguments", "message"),
    [
        (generate, ["--document=none.txt", "--question=?"], "--document=none.txt can't be read"),
        (evaluate, ["--workdir={tmp}/none", "--label=x", "--rescore"], "holds no rows; evaluate"),
        (evaluate, ["--workdir={tmp}/none"], "none holds no checkpoint of the stages"),
        (evaluate, ["--workdir={tmp}", "--label=a/b"], "--label=a/b must be the name of a folder"),
        (
            train,
            ["--workdir={tmp}/none", "--config.model.weights=none.whl"],
            "none.whl does not exist",
        ),
        (
            train,
            ["--workdir={tmp}", "--config.data.target_length=40000"],
            "config.data.target_length = 40000 with decoding.max_new_tokens = 160 exceeds",
        ),
        (
            train,
            ["--workdir={tmp}", "--config.data.source=jsonl:{tmp}/train.jsonl"],
            "recallm_math_retrieval_val_256.jsonl does not exist; write it with",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(job, arguments, message, tmp_path, capsys):
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert job.main([*CONFIG, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_failed_start_leaves_its_folder_free(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert train.main([*CONFIG, f"--workdir={workdir}", "--config.model.weights=none.whl"]) == 2
    assert "none.whl does not exist" in capsys.readouterr().err
    assert not workdir.exists()


def test_one_prompt_alone_is_answered_on_many_devices(tmp_path, capsys):
    document = tmp_path / "document.txt"
    document.write_text("The lamp was lit in 1874.\n")
    arguments = [f"--document={document}", "--question=When?", "--quote_first"]
    mesh = ["--config.mesh.data=2", "--config.grpo.micro_batch=2"]
    assert generate.main([*CONFIG, *mesh, *arguments]) == 0
    assert "recall span 1" in capsys.readouterr().out


def test_an_empty_document_is_refused(tmp_path, capsys):
    document = tmp_path / "empty.txt"
    document.write_text(" \n")
    assert generate.main([*CONFIG, f"--document={document}", "--question=?"]) == 2
    assert "error: the document is empty" in capsys.readouterr().err


def test_a_checkpoint_of_another_model_is_refused(finished_run, tmp_path, capsys, monkeypatch):
    from recallm_jax.policy import tiny

    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    wider = dataclasses.replace(tiny.TINY, mlp_dim=96)
    monkeypatch.setattr(tiny, "TINY", wider)
    assert evaluate.main([*CONFIG, f"--workdir={other}"]) == 2
    error = capsys.readouterr().err
    assert re.search(
        r"error: checkpoint \S+/grpo/2 is of another model or stage: \S*down\S* is "
        r"float32\[2,128,64\] in it, but float32\[2,96,64\] in this run; choose another --workdir",
        error,
    )
