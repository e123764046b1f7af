"""The convert job: a checkpoint in, a Hugging Face folder with the added tokens out."""

import json
import shutil

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from recallm_jax.config.load import load_config
from recallm_jax.convert import main
from recallm_jax.policy.setup import set_up
from recallm_jax.weights import hugging_face
from tasks.prompts.vocabulary import ADDED_TOKENS
from tests.oracles import tiny_run
from tests.oracles.tiny_models import tiny_folder
from tests.oracles.tiny_run import CONFIG


def make_source(folder):
    shutil.copytree(tiny_folder("qwen3_plain"), folder)
    vocabulary = {chr(0x4E00 + n): n for n in range(39)} | {"<end>": 39}
    (folder / "tokenizer.json").write_text(Tokenizer(BPE(vocab=vocabulary, merges=[])).to_str())
    settings = {"chat_template": "{{ messages }}", "eos_token": {"content": "<end>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_the_output_has_rows_and_ids_for_the_added_tokens(tmp_path, capsys):
    make_source(tmp_path / "in")
    out = tmp_path / "out"
    assert main([f"--source={tmp_path / 'in'}", f"--out={out}", "--max-shard-gb=0.00002"]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    model = hugging_face.load(out)
    assert model.config.vocab_rows == model.embedding[...].shape[0] == 128
    files = hugging_face.load_tokenizer(out)
    tokenizer = Tokenizer.from_str(files.tokenizer_json)
    assert [tokenizer.token_to_id(token) for token in ADDED_TOKENS] == [40, 41, 42, 43]
    assert len(list(out.glob("model-*.safetensors"))) > 1


def test_a_missing_source_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main([f"--source={tmp_path / 'in'}", f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=in"], "the following arguments are required: --out; see python -m recallm_jax"),
        (["--source=in", "--out=out", "--param-dtype=int8"], "invalid choice: 'int8'"),
        (["--out=out"], "give either --source, or --config and --workdir of a run"),
        (["--source=in", "--workdir=run", "--out=out"], "give either --source, or --config and"),
        (["--source=in", "--out=out", "--config=configs/quickstart.py"], "unrecognized arguments"),
        (["--workdir=run", "--out=out"], "--config is missing; give one, such as"),
        (["--source=in", "--out=out", "--max-shard-gb=nan"], "--max-shard-gb=nan: give a finite"),
        (["--source=in", "--out=out", "--max-shard-gb=0"], "--max-shard-gb=0.0: give a finite"),
    ],
)
def test_mistaken_arguments_are_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_a_truncated_tokenizer_is_one_line_and_exit_code_2(tmp_path, capsys):
    make_source(tmp_path / "in")
    tokenizer = tmp_path / "in" / "tokenizer.json"
    whole = tokenizer.read_bytes()
    for broken, message in (
        (whole[:-9], "tokenizer.json can't be read"),
        (b"\xff" + whole, "is not UTF-8 text"),
    ):
        tokenizer.write_bytes(broken)
        assert main([f"--source={tmp_path / 'in'}", f"--out={tmp_path / 'out'}"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert f"{tmp_path / 'in'}" in error and message in error


@pytest.mark.filterwarnings("ignore")
def test_a_trained_policy_is_written_as_weights_that_a_run_can_start_from(
    trained_run, tmp_path, capsys
):
    out = tmp_path / "weights"
    assert main([*CONFIG, f"--workdir={trained_run}", f"--out={out}"]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {out}: grpo step 2\n")
    again = set_up(load_config([*CONFIG, f"--config.model.weights={out}"]))
    trained, _, _ = tiny_run.newest_policy(trained_run)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.policy.layers), trained.layers)
    np.testing.assert_array_equal(again.policy.embedding[...], trained.embedding[...])
    assert again.tokenizer.to_json() == set_up(load_config(CONFIG)).tokenizer.to_json()
