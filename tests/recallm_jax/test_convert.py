"""The convert job: a checkpoint in, a Hugging Face folder with the added tokens out."""

import json
import shutil

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from recallm_jax.config.kept import keep_config
from recallm_jax.config.load import load_config
from recallm_jax.convert import main
from recallm_jax.policy.setup import set_up
from recallm_jax.weights import hugging_face
from recallm_jax.weights.source import load_policy
from tasks.prompts.vocabulary import ADDED_TOKENS
from tests.oracles import tiny_run
from tests.oracles.tiny_models import tiny_folder
from tests.oracles.tiny_run import CONFIG

TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<turn>\n{% endif %}"
)
# Two end tokens, and a token of its own for each other use.
IDS = {"bos_token_id": 36, "eos_token_id": [39, 38], "pad_token_id": 37}
GENERATION = {**IDS, "eos_token_id": [38, 39], "temperature": 0.6, "transformers_version": "5.0"}


def make_source(folder):
    """Make a folder of 40 rows, as many as its tokenizer has entries."""
    shutil.copytree(tiny_folder("qwen2_plain"), folder)
    vocabulary = {chr(0x4E00 + n): n for n in range(36)}
    vocabulary |= {"<begin>": 36, "<pad>": 37, "<end of text>": 38, "<end>": 39}
    (folder / "tokenizer.json").write_text(Tokenizer(BPE(vocab=vocabulary, merges=[])).to_str())
    settings = {
        "chat_template": TEMPLATE,
        "bos_token": "<begin>",
        "eos_token": {"content": "<end>"},
        "pad_token": "<pad>",
    }
    config = json.loads((folder / "config.json").read_text()) | IDS
    for name, content in (
        ("tokenizer_config.json", settings),
        ("config.json", config),
        ("generation_config.json", GENERATION),
    ):
        (folder / name).write_text(json.dumps(content))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "in"
    make_source(folder)
    return folder


@pytest.fixture(scope="module")
def export(source):
    out = source.with_name("out")
    assert main([f"--source={source}", f"--out={out}", "--max-shard-gb=0.00002"]) == 0
    return out


def test_the_output_has_a_row_for_each_entry_of_the_tokenizer_and_no_more(export):
    """A row of zeros wins where all other logits are negative."""
    model = hugging_face.load(export)
    assert model.embedding[...].shape[0] == model.output[...].shape[0] == 44
    assert model.config.vocab_rows == 44
    assert len(list(export.glob("model-*.safetensors"))) > 1
    assert not list(export.parent.glob(".*partial"))


def test_the_policy_is_read_back_from_the_output(source, export):
    before, after = load_policy(source), load_policy(export)
    jax.tree.map(np.testing.assert_array_equal, before.model, after.model)
    assert after.model.config.vocab_rows == 128


def test_both_tokenizer_files_have_the_added_tokens(export):
    tokenizer = Tokenizer.from_str((export / "tokenizer.json").read_text())
    assert [tokenizer.token_to_id(token) for token in ADDED_TOKENS] == [40, 41, 42, 43]
    settings = json.loads((export / "tokenizer_config.json").read_text())
    added = settings["added_tokens_decoder"]
    assert [added[str(number)]["content"] for number in range(40, 44)] == list(ADDED_TOKENS)
    # So that they stay visible where special tokens are skipped.
    assert not any(added[str(number)]["special"] for number in range(40, 44))


def test_end_tokens_bos_and_pad_go_out_as_they_came_in(export):
    assert json.loads((export / "generation_config.json").read_text()) == GENERATION
    config = json.loads((export / "config.json").read_text())
    assert {name: config[name] for name in IDS} == IDS
    settings = json.loads((export / "tokenizer_config.json").read_text())
    names = ("bos_token", "eos_token", "pad_token")
    assert [settings[name] for name in names] == ["<begin>", "<end>", "<pad>"]


def test_the_served_prompt_is_that_of_training_and_read_back_once(source, export):
    before, after = (load_policy(folder).tokenizer.tokenizer() for folder in (source, export))
    prompt = before.chat_prompt("", "一")
    assert prompt == "一<end><turn>\n<think>\n"
    assert after.render([{"role": "user", "content": "一"}]) == prompt
    assert after.chat_prompt("", "一") == prompt
    assert (after.end_ids, after.eos_id) == (before.end_ids, before.eos_id) == ((38, 39), 39)


def test_a_folder_in_use_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "mine").write_text("keep")
    assert main(["--source=nowhere", f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} exists already; give a new folder or remove it first\n"
    )
    assert (tmp_path / "mine").read_text() == "keep"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("generation_config.json", {"eos_token_id": [38, 77]}, "eos_token_id = 77 is not an id"),
        ("generation_config.json", {"eos_token_id": "<end>"}, "eos_token_id = '<end>' is neither"),
        ("tokenizer_config.json", {"pad_token": "<none>"}, "names the token '<none>'"),
        ("tokenizer_config.json", {"chat_template": "{{ messages.x.y }}"}, "chat template can't"),
    ],
)
def test_files_that_do_not_belong_together_are_one_line_and_leave_nothing(
    tmp_path, capsys, name, changes, message
):
    source, out = tmp_path / "in", tmp_path / "out"
    make_source(source)
    content = json.loads((source / name).read_text())
    (source / name).write_text(json.dumps({**content, **changes}))
    assert main([f"--source={source}", f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {source}") and error.count("\n") == 1 and message in error
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_rules_of_spans_go_with_the_weights(export):
    spans = json.loads((export / "config.json").read_text())["recall_spans"]
    assert (spans["start_token_id"], spans["end_token_id"]) == (40, 41)
    assert spans["vocab_size"] == 44 and spans["barrier_token_ids"] == [36, 37, *range(39, 44)]


def test_an_export_that_is_converted_again_keeps_its_template_and_its_rules(export, tmp_path):
    """A run may have trained without a thought, and with other bounds of a span."""
    first, again = shutil.copytree(export, tmp_path / "first"), tmp_path / "again"
    for name, change in (
        ("tokenizer_config.json", lambda content: content.update(chat_template=TEMPLATE)),
        ("config.json", lambda content: content["recall_spans"].update(max_length=7)),
    ):
        content = json.loads((first / name).read_text())
        change(content)
        (first / name).write_text(json.dumps(content))
    assert main([f"--source={first}", f"--out={again}", "--param-dtype=bfloat16"]) == 0
    settings = json.loads((again / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == TEMPLATE
    assert json.loads((again / "config.json").read_text())["recall_spans"]["max_length"] == 7


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("data.thinking", "False", True),
        ("decoding.copy_source", "prompt+response", "'prompt'"),
        ("decoding.max_recall_length", "5", 32),
        ("decoding.span_alignment", "word", "'character'"),
    ],
)
def test_a_run_is_exported_with_its_own_template_and_rules(tmp_path, capsys, field, value, found):
    run, out = tmp_path / "run", tmp_path / "out"
    keep_config(load_config(CONFIG), run, may_change=(), remedy="")
    arguments = [*CONFIG, f"--config.{field}={value}", f"--workdir={run}", f"--out={out}"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert f"{run} was made with config.{field} = {found}, not" in error
    assert error.endswith("; give the config of the run\n") and not out.exists()


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
        (
            ["--workdir=run", "--out=out", "--adapter", "--max-shard-gb=1"],
            "an adapter is one file; leave out --max-shard-gb, or --adapter",
        ),
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
        (whole[:-9], "tokenizer.json is not JSON"),
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
    rows = again.tokenizer.size
    np.testing.assert_array_equal(again.policy.embedding[:rows], trained.embedding[:rows])
    assert again.tokenizer.to_json() == set_up(load_config(CONFIG)).tokenizer.to_json()
