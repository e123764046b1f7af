"""The sizes of a model without its weights are its preset's; otherwise those of loading."""

import json
import re
import shutil

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.models.presets import QWEN2_5_YARN
from recallm_jax.planning.sizes import model_sizes
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.errors import UserError
from tests.oracles.tiny_models import tiny_folder

QWEN = "--config=configs/qwen2_5_7b.py"


def test_a_preset_has_the_rows_that_loading_makes_and_the_configs_options():
    sizes = model_sizes(load_config([QWEN, "--config.model.remat=none"]))
    # 151,665 tokens and four more fit the published rows.
    assert sizes.vocab_rows == 152_064
    assert (sizes.dtype, sizes.remat, sizes.rope_scaling) == ("bfloat16", "none", QWEN2_5_YARN)
    # Four times 32,768, and room for the response to the longest prompt.
    assert sizes.max_positions == 131_072 + 5_120
    llama = model_sizes(load_config(["--config=configs/llama3_1_8b.py"]))
    # All rows of the published matrix are taken: four more, padded to 128.
    assert llama.vocab_rows == 128_256 + 128
    assert llama.rope_scaling is not None
    assert llama.rope_scaling.kind == "llama3"


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_a_folder_needs_no_weights(tmp_path, with_tokenizer):
    """config.json overrides the preset; the tokenizer gives the number of rows."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(tiny_folder("qwen2_yarn") / "config.json", folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if with_tokenizer:
        tokenizer = set_up(load_config(["--config=configs/quickstart.py:tiny"])).tokenizer
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        # Its entries, with the four added ones, are more than the tiny model's rows.
        rows = -(-tokenizer.size // 128) * 128
        assert rows > fields["vocab_size"]
    else:
        rows = 128
    config = load_config(
        [QWEN, f"--config.model.weights={folder}", "--config.model.rope_scaling=checkpoint"]
    )
    sizes = model_sizes(config)
    assert (sizes.width, sizes.num_layers) == (fields["hidden_size"], fields["num_hidden_layers"])
    assert sizes.vocab_rows == rows


def test_the_tiny_random_model_has_the_sizes_that_a_job_gives_it():
    config = load_config(["--config=configs/quickstart.py:tiny"])
    assert model_sizes(config) == set_up(config).policy.config


def test_missing_weights_without_a_preset_are_refused():
    config = load_config([QWEN, "--config.model.preset="])
    message = (
        "config.model.weights = 'weights/Qwen2.5-7B-Instruct' does not exist and "
        "config.model.preset is empty; give a folder with a config.json, or a preset: llama-3.1-8b"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        model_sizes(config)


def test_yarn_is_not_laid_over_a_scaling_of_the_weights_own():
    arguments = ["--config=configs/llama3_1_8b.py", "--config.model.rope_scaling=qwen2.5-yarn"]
    with pytest.raises(UserError, match=r"the checkpoint has RopeScaling\(kind='llama3'"):
        model_sizes(load_config(arguments))
