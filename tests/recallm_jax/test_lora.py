"""Training adapters: what is trained, saved, resumed, exported and read again."""

import json
import shutil
import warnings

import jax
import numpy as np
import pytest

from recallm_jax import convert, evaluate, train
from recallm_jax.config.load import load_config
from recallm_jax.policy.setup import set_up
from recallm_jax.training.restore import placed_state, restore_policy
from recallm_jax.training.stages import plan_stages
from recallm_jax.weights import hugging_face
from recallm_jax.weights.lora import merged
from recallm_jax.weights.tensors import layer_arrays, top_arrays
from tests.oracles import even_tokens
from tests.oracles.tiny_run import CONFIG

LORA = (
    *CONFIG,
    *("--config.model.lora.rank=2", "--config.model.lora.alpha=8"),
    # Evaluations take most of the time of a tiny run.
    "--config.evaluation.num_examples=0",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tiny run of all stages, with adapters."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    with even_tokens.rewarded(), pytest.warns():
        assert train.main([*LORA, f"--workdir={folder}"]) == 0
    return folder


def policy_of(run, arguments=LORA):
    config = load_config(arguments)
    return restore_policy(config, set_up(config), run)[0]


def test_training_changes_the_adapters_and_nothing_else(run):
    start = set_up(load_config(LORA)).policy
    end = policy_of(run)
    trained = start.trained()
    for name, before in {**top_arrays(start), **layer_arrays(start)}.items():
        after = ({**top_arrays(end), **layer_arrays(end)})[name]
        if name in trained:
            assert abs(after - before).max() > 0, name
        else:
            np.testing.assert_array_equal(after, before, err_msg=name)


def test_a_checkpoint_holds_the_adapters_only(run):
    newest = max((run / "checkpoints" / "grpo").iterdir())
    names = json.loads((newest / "metadata" / "metadata").read_text())["layout"]
    policy = {name.split(".")[1] for name in names if name.startswith("policy.")}
    assert policy == set(set_up(load_config(LORA)).policy.trained())


def test_a_run_resumed_from_adapters_ends_with_the_same_bits(run, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")
    shutil.rmtree(again / "checkpoints" / "grpo")
    with even_tokens.rewarded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert train.main([*LORA, f"--workdir={again}"]) == 0
    got, expected = policy_of(again).trained(), policy_of(run).trained()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_adapters_of_other_weights_are_refused_in_one_line(run, capsys):
    arguments = [*LORA, "--config.evaluation.num_examples=1", "--config.seed=1"]
    arguments += [f"--workdir={run}", "--label=x"]
    assert evaluate.main(arguments) == 2
    assert "config.seed" in capsys.readouterr().err


def test_updates_keep_the_frozen_arrays_in_place(run):
    context = set_up(config := load_config(LORA))
    stage = plan_stages(config, context)[1]
    state = placed_state(context.policy, stage, context)
    frozen, trained = context.policy.layers.query[...], context.policy.layers.query_a[...]
    assert state.policy.layers.query[...] is frozen
    # Updates donate what they change, so that the policy before needs arrays of its own.
    assert state.policy.layers.query_a[...] is not trained


def test_the_merged_export_is_the_policy(run, tmp_path):
    assert convert.main([*LORA, f"--workdir={run}", f"--out={tmp_path / 'out'}"]) == 0
    got, expected = hugging_face.load(tmp_path / "out"), merged(policy_of(run))
    rows = got.config.vocab_rows
    for name, value in {**top_arrays(got), **layer_arrays(got)}.items():
        wanted = ({**top_arrays(expected), **layer_arrays(expected)})[name]
        if name in ("embedding", "output"):
            wanted = wanted[:rows]
        np.testing.assert_array_equal(value, wanted, err_msg=name)


def test_an_exported_adapter_comes_back_as_it_was(run, tmp_path, capsys):
    out = tmp_path / "adapter"
    assert convert.main([*LORA, f"--workdir={run}", f"--out={out}", "--adapter"]) == 0
    settings = json.loads((out / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (2, 8.0)
    expected = policy_of(run).trained()
    got = set_up(load_config([*LORA, f"--config.model.adapter={out}"])).policy
    for name, value in got.trained().items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6, err_msg=name)
    # With a rank of 0 they are added to the weights.
    whole = set_up(load_config([*CONFIG, f"--config.model.adapter={out}"])).policy
    assert whole.config.lora is None
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(merged(got)), strict=True):
        np.testing.assert_array_equal(a, b)
    capsys.readouterr()
    for change, message in (
        ("lora.rank=4", "config.model.lora.rank = 4, but the adapter"),
        ("lora.matrices=('query',)", "config.model.lora.matrices = ('query',), but the adapter"),
    ):
        arguments = [*LORA, f"--config.model.adapter={out}", f"--config.model.{change}"]
        assert train.main([*arguments, f"--workdir={tmp_path / 'new'}"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "new" / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("use_dora", True, "use_dora = True is not supported, only False is"),
        ("target_modules", ["q_proj", "conv"], "target_modules = ['q_proj', 'conv'] is not a list"),
        ("trainable_token_indices", None, "trainable_token_indices = None, but the added tokens"),
        ("r", 3, "has shape [2, 64], but config.model.weights asks for [3, 64]"),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_line(run, tmp_path, capsys, name, value, message):
    out = tmp_path / "adapter"
    assert convert.main([*LORA, f"--workdir={run}", f"--out={out}", "--adapter"]) == 0
    settings = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(settings | {name: value}))
    capsys.readouterr()
    arguments = [*CONFIG, f"--config.model.adapter={out}", f"--workdir={tmp_path / 'new'}"]
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_that_trains_all_weights_has_no_adapter(tmp_path, capsys, trained_run):
    out = tmp_path / "out"
    assert convert.main([*CONFIG, f"--workdir={trained_run}", f"--out={out}", "--adapter"]) == 2
    assert "trains all weights and has no adapter" in capsys.readouterr().err
    assert not out.exists()
