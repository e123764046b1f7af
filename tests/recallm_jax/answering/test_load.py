"""Loading a reader: from a run, from what `convert` made of it, and from neither."""

import json
import shutil

import jax
import numpy as np
import pytest

from recallm_jax import convert
from recallm_jax.answering.load import load_reader
from recallm_jax.config.load import load_config
from recallm_jax.policy.modes import span_rules
from recallm_jax.runtime.errors import UserError
from tests.oracles.tiny_run import CONFIG, newest_policy

DOCUMENT = "The lamp was lit in 1874.\nAda Thorne kept it.\n"
QUESTION = "Who kept the lamp?"


def test_a_run_answers_by_its_newest_checkpoint_config_and_rules(trained_run):
    reader, config = load_reader(trained_run), load_config(CONFIG)
    for ours, expected in zip(
        jax.tree.leaves(reader.policy), jax.tree.leaves(newest_policy(trained_run)[0]), strict=True
    ):
        np.testing.assert_array_equal(ours, expected)
    assert reader.rules == span_rules(config, reader.context.tokenizer)
    assert reader.options.max_new_tokens == config.decoding.max_new_tokens
    assert reader.settings.target_length == config.data.target_length


def test_what_convert_made_of_a_run_answers_as_the_run_does(trained_run, tmp_path):
    out = tmp_path / "out"
    assert convert.main([*CONFIG, f"--workdir={trained_run}", f"--out={out}"]) == 0
    of_run, of_folder = load_reader(trained_run), load_reader(out)
    assert of_folder.rules == of_run.rules
    asked = [(DOCUMENT, QUESTION)]
    (expected,) = of_run.ask(asked)
    (answer,) = of_folder.ask(asked, of_run.options)
    assert answer == expected


def test_a_run_that_was_made_on_several_devices_is_loaded_on_one(copied_run):
    path = copied_run / "config.json"
    config = json.loads(path.read_text())
    config["mesh"]["data"] = 4
    path.write_text(json.dumps(config))
    assert load_reader(copied_run).context.mesh.size == 1


@pytest.mark.parametrize("option", [{"adapter": "a"}, {"dtype": "bfloat16"}])
def test_a_run_takes_no_other_weights(trained_run, option):
    (value,) = option.values()
    with pytest.raises(UserError, match=f"is a run, which has its own weights; .* {value}"):
        load_reader(trained_run, **option)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "config.json is missing, which says how the run was made"),
        ("{", r"config.json is damaged \("),
        ('{"seed": 0}', r"config.json: config\.\S+ is missing"),
    ],
)
def test_a_run_without_its_config_is_refused(copied_run, content, message):
    path = copied_run / "config.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_reader(copied_run)


def test_a_path_to_nothing_is_refused_with_what_it_may_be(tmp_path):
    with pytest.raises(UserError, match="does not exist; give the workdir of a run, or weights"):
        load_reader(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"config\.json"):
        load_reader(tmp_path / "empty")


def test_a_run_without_a_checkpoint_is_refused(copied_run):
    for stage in (copied_run / "checkpoints").iterdir():
        shutil.rmtree(stage)
    with pytest.raises(UserError, match="holds no checkpoint of the stages"):
        load_reader(copied_run)
