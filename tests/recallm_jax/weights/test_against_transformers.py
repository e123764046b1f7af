"""Configs and folders mean what transformers makes of them (tests/golden/make_config_golden.py)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax.models.rope import frequencies
from recallm_jax.weights import hugging_face
from recallm_jax.weights.config_keys import HARMLESS, OFF, OFF_IN_GENERATION, USED
from recallm_jax.weights.hugging_face_config import DEFAULTS, read_config, write_config
from tests.oracles.folder_variants import VARIANTS
from tests.oracles.tiny_models import GOLDEN

EXPECTED = json.loads((GOLDEN / "transformers_configs.json").read_text())
QWEN3 = {"model_type": "qwen3", "head_dim": 64}


def read(fields):
    return read_config(fields, "config.json", dtype="float32", remat="full")


@pytest.mark.parametrize("family", DEFAULTS)
def test_absent_fields_have_the_values_of_transformers(family):
    stated = {name: value for name, value in EXPECTED["defaults"][family].items() if value}
    assert {name: value for name, value in DEFAULTS[family].items() if value} == stated
    assert DEFAULTS[family]["tie_word_embeddings"] is False


@pytest.mark.parametrize("kind", ["config", "generation"])
def test_every_field_of_transformers_own_files_is_used_harmless_or_refused(kind):
    known = USED | set(OFF) | set(OFF_IN_GENERATION) | {n for ns in HARMLESS.values() for n in ns}
    assert set(EXPECTED["keys"][kind]) <= known


def test_no_key_is_in_two_tables():
    names = [*USED, *OFF, *OFF_IN_GENERATION, *(n for ns in HARMLESS.values() for n in ns)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("golden", EXPECTED["ropes"], ids=lambda golden: str(golden["fields"]))
def test_rotary_settings_give_the_frequencies_and_the_factor_of_transformers(golden):
    config = read(QWEN3 | golden["fields"])
    exported = read(write_config(config, param_dtype="float32"))
    for read_back in (config, exported):
        found, factor = frequencies(read_back)
        np.testing.assert_allclose(found, golden["frequencies"], rtol=2e-6)
        assert factor == pytest.approx(golden["factor"], rel=1e-6)


def test_options_of_yarn_survive_an_export():
    options = {"attention_factor": 0.5, "mscale": 1.0, "mscale_all_dim": 0.7, "truncate": False}
    stated = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    config = read(QWEN3 | {"rope_scaling": stated | options})
    written = write_config(config, param_dtype="float32")
    assert written["rope_scaling"].items() >= (stated | options).items()
    assert read(written) == config


def test_an_option_of_yarn_that_transformers_ignores_is_named(capsys):
    stated = {"rope_type": "yarn", "factor": 4.0, "attn_factor": 0.88}
    read(QWEN3 | {"rope_scaling": stated})
    assert "rope_scaling: attn_factor = 0.88 is not used, as in tra" in capsys.readouterr().err


@jax.jit
def last_logits(model, tokens):
    hidden, _ = model.prefill(tokens[None], jnp.array([tokens.size]))
    return model.unembed(hidden)[0]


@pytest.mark.parametrize("name", VARIANTS)
def test_folders_of_other_programs_give_the_logits_of_transformers(name, tmp_path):
    VARIANTS[name](tmp_path / "folder")
    model = hugging_face.load(tmp_path / "folder")
    found = last_logits(model, jnp.array(EXPECTED["tokens"], jnp.int32))
    np.testing.assert_allclose(found, EXPECTED["folders"][name], rtol=0, atol=1e-4)


def test_a_folder_says_which_of_its_weights_are_taken(tmp_path, capsys):
    VARIANTS["beside_an_index"](tmp_path / "a")
    hugging_face.load(tmp_path / "a")
    said = capsys.readouterr().err
    assert "a: model.safetensors is read, and model.safetensors.index.json is not" in said
    VARIANTS["tied_but_different"](tmp_path / "b")
    assert not hugging_face.load(tmp_path / "b").config.tie_embeddings
    said = capsys.readouterr().err
    assert "b: lm_head.weight differs from the embedding, so it is kept apart" in said
