"""Which tokens end a response, and what an export states about special tokens."""

import dataclasses
import json
import pickle

import pytest

from recallm_jax.policy.tiny import CHAT_TEMPLATE, tiny_files, tiny_tokenizer
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.special_ids import StatedIds, exported_ids, read_stated
from tasks.errors import TaskInputError
from tasks.prompts.seqio_vocabulary import RecallVocabulary

TINY = tiny_tokenizer()
TEXT_END, TURN_START, TURN_END = (
    TINY.encode(token)[0] for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
)
# Writes eos_token after a turn, whichever token that is.
FLEXIBLE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
# Writes no token after a turn.
PLAIN = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        ({}, None, ()),
        ({"eos_token_id": 2}, None, (2,)),
        ({"eos_token_id": [2, 0]}, None, (2, 0)),
        ({"eos_token_id": 0}, {"eos_token_id": [2, 0]}, (2, 0)),
        ({"eos_token_id": [2, 0]}, {"eos_token_id": 0}, (0,)),
        ({"eos_token_id": 2}, {"top_p": 0.9}, (2,)),
        ({"eos_token_id": 2}, {"eos_token_id": None}, (2,)),
    ],
)
def test_generation_config_decides_which_tokens_end_a_response(config, generation, ends):
    """The order of transformers' `generate`; 0 is an id like any other."""
    assert read_stated(config, generation, "folder").end_ids == ends


@pytest.mark.parametrize("bad", ["2", 2.0, True, -1, [2, None]])
def test_an_end_token_that_is_no_id_is_refused_with_its_file(bad):
    with pytest.raises(UserError, match=r"^in/generation_config\.json: eos_token_id = .* correct"):
        read_stated({"eos_token_id": 2}, {"eos_token_id": bad}, "in")


@pytest.mark.parametrize("name", ["bos_token_id", "pad_token_id"])
def test_other_ids_are_whole_numbers_and_minus_one_is_none(name):
    for bad in ("2", [2], 2.0, True):
        with pytest.raises(
            UserError, match=rf"^in/config\.json: {name} = .* not the id of a token"
        ):
            read_stated({name: bad}, None, "in")
    read_stated({name: -1}, {name: None}, "in")


def made(template, eos_token, stated):
    files = dataclasses.replace(
        tiny_files(),
        chat_template=template,
        eos_token=eos_token,
        stated=StatedIds({"eos_token_id": stated}),
    )
    return files.tokenizer()


@pytest.mark.parametrize(
    ("template", "eos_token", "stated", "of_turn", "ends"),
    [
        # As in Qwen2.5: the tokenizer's own, one of two.
        (CHAT_TEMPLATE, "<|im_end|>", [TURN_END, TEXT_END], TURN_END, (TURN_END, TEXT_END)),
        # The tokenizer names another token of the list than its template writes.
        (CHAT_TEMPLATE, "<|endoftext|>", [TEXT_END, TURN_END], TURN_END, (TEXT_END, TURN_END)),
        # The tokenizer names a token that is not in the list.
        (CHAT_TEMPLATE, "<|im_start|>", [TURN_END, TEXT_END], TURN_END, (TURN_END, TEXT_END)),
        # The list lacks the token after a turn: a policy that learns to write it stops there too.
        (FLEXIBLE, "<|im_end|>", [TEXT_END], TURN_END, (TEXT_END, TURN_END)),
        # The template writes none of them, or can't write such a turn.
        (PLAIN, "<|im_end|>", [TEXT_END, TURN_END], TURN_END, (TEXT_END, TURN_END)),
        (PLAIN, "<|im_start|>", [TEXT_END, TURN_END], TEXT_END, (TEXT_END, TURN_END)),
        ("{{ messages[7].content }}", "<|im_end|>", [TURN_END], TURN_END, (TURN_END,)),
        # Nothing is stated.
        (CHAT_TEMPLATE, "<|im_end|>", None, TURN_END, (TURN_END,)),
    ],
)
def test_a_demonstration_ends_as_the_template_ends_a_turn(
    template, eos_token, stated, of_turn, ends
):
    tokenizer = made(template, eos_token, stated)
    assert (tokenizer.eos_id, tokenizer.end_ids) == (of_turn, ends)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert (again.eos_id, again.end_ids) == (of_turn, ends)


def test_an_end_token_that_the_tokenizer_lacks_is_refused():
    with pytest.raises(TaskInputError, match="eos_token_id = 9999 is not an id of the tokenizer"):
        made(CHAT_TEMPLATE, "<|im_end|>", [TURN_END, 9999])


def test_a_decoded_text_ends_at_any_end_token():
    vocabulary = RecallVocabulary(made(CHAT_TEMPLATE, "<|im_end|>", [TURN_END, TEXT_END]))
    ids = TINY.encode("The key")
    for end in (TURN_END, TEXT_END):
        assert vocabulary.decode([*ids, end, *ids]) == "The key"


def exported(config, generation, *, pad_token="", bos_token=""):
    tokenizer = dataclasses.replace(
        tiny_files(), bos_token=bos_token, stated=StatedIds(config, generation)
    ).tokenizer()
    return exported_ids(StatedIds(config, generation), tokenizer, pad_token=pad_token)


def test_what_a_checkpoint_states_goes_out_as_it_came_in():
    config = {"bos_token_id": TURN_START, "eos_token_id": [TURN_END, TEXT_END], "pad_token_id": 5}
    generation = {"eos_token_id": [TEXT_END, TURN_END], "pad_token_id": 7, "temperature": 0.6}
    assert exported(config, generation, pad_token="<|endoftext|>") == (config, generation)


def test_both_files_name_all_end_tokens():
    """Servers read one file or the other."""
    config, generation = exported({"eos_token_id": TEXT_END}, None)
    assert config == generation == {"eos_token_id": [TEXT_END, TURN_END]}
    config, generation = exported(
        {"eos_token_id": TURN_END}, {"eos_token_id": [TURN_END, TEXT_END], "top_k": 20}
    )
    assert config["eos_token_id"] == generation["eos_token_id"] == [TURN_END, TEXT_END]
    assert generation["top_k"] == 20


def test_tokens_that_only_the_tokenizer_names_are_stated():
    config, generation = exported({}, None, pad_token="<|endoftext|>", bos_token="<|im_start|>")
    assert config == {
        "bos_token_id": TURN_START,
        "eos_token_id": TURN_END,
        "pad_token_id": TEXT_END,
    }
    assert json.dumps(generation) == json.dumps(config)


def test_ids_past_the_rows_of_an_export_are_left_out():
    stated = {"eos_token_id": TURN_END, "pad_token_id": TINY.size}
    config, generation = exported(stated, stated | {"bos_token_id": None})
    assert config == {"eos_token_id": TURN_END}
    assert generation == {"eos_token_id": TURN_END, "bos_token_id": None}
