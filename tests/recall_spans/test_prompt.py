"""Prompts and tokens get the flags that training gives them, from token ids alone."""

import json

import numpy as np
import pytest

from recall_spans.prompt import flag_prompt
from recall_spans.rules import RecallSpansError, Rules, rules_of
from recall_spans.tokens import TokenTable, table_of_json
from recallm_jax.policy.tiny import tiny_tokenizer
from recallm_jax.weights.recall_rules import usual_rules
from tasks.prompts.span_edges import ALIGNMENTS, span_flags, token_edges

TOKENIZER = tiny_tokenizer()
DOCUMENT = (
    "The keeper's log, 1901: naïve café — 12½ litres. 灯台は岩の上に立つ。 परीक्षा 🏮🏮 "
    "مَرْحَبًا e\u0301tude; x_y\r\nlast\u200dline"
)
QUESTION = "Who kept the log? 灯台"


def exported(alignment: str) -> tuple[Rules, TokenTable]:
    content = TOKENIZER.to_json()
    fields = {**usual_rules(content), "span_alignment": alignment}
    rules = rules_of({"recall_spans": fields}, "config.json")
    return rules, table_of_json(json.loads(content), rules.vocab_size)


def prompt_of(documents: list[str]) -> tuple[str, np.ndarray, np.ndarray]:
    text = TOKENIZER.chat_prompt("Recall, then answer.", " | ".join([*documents, QUESTION]))
    ids, offsets = TOKENIZER.encode_with_offsets(text)
    return text, np.asarray(ids, np.int32), offsets


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_a_prompt_is_flagged_as_in_training(alignment):
    rules, table = exported(alignment)
    rng = np.random.default_rng(0)
    for case in range(40):
        # Pieces that begin and end anywhere, also inside of words and beside combining marks.
        cuts = np.sort(rng.choice(len(DOCUMENT) + 1, 3, replace=False))
        documents = [DOCUMENT] if case == 0 else [DOCUMENT[cuts[0] : cuts[1]], DOCUMENT[cuts[1] :]]
        text, ids, offsets = prompt_of(documents)
        ranges, at = [], 0
        for document in documents:
            if document:
                at = text.index(document, at)
                ranges.append((at, at + len(document)))
                at += len(document)
        expected = span_flags(TOKENIZER, text, ids, offsets, ranges, alignment)
        prompt = flag_prompt(ids, table, rules, documents=[d for d in documents if d])
        found = (prompt.copyable, prompt.opens, prompt.closes)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert prompt.copyable.any()


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_without_documents_all_but_added_tokens_may_be_copied(alignment):
    rules, table = exported(alignment)
    text, ids, offsets = prompt_of([DOCUMENT])
    expected = span_flags(TOKENIZER, text, ids, offsets, [(0, len(text))], alignment)
    # Padding is made of an added token, so it changes nothing.
    padded = np.append([TOKENIZER.eos_id] * 3, ids)
    prompt = flag_prompt(padded, table, rules)
    for ours, theirs in zip((prompt.copyable, prompt.opens, prompt.closes), expected, strict=True):
        np.testing.assert_array_equal(ours, np.append([False] * 3, theirs))


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_tokens_of_a_response_have_the_edges_of_training(alignment):
    rules, table = exported(alignment)
    assert table.edges(rules).tobytes() == token_edges(TOKENIZER, alignment)
    assert table.pieces == TOKENIZER.token_bytes


def test_paper_compatible_prompts_may_be_copied_whole_but_for_padding_and_recall_tokens():
    fields = {**usual_rules(TOKENIZER.to_json()), "paper_compatible": True}
    rules = rules_of({"recall_spans": fields}, "config.json")
    _, table = exported("character")
    tokens = [TOKENIZER.eos_id, TOKENIZER.eos_id, 9, rules.start_token_id, TOKENIZER.eos_id]
    prompt = flag_prompt(np.array(tokens), table, rules, padding=1)
    assert prompt.copyable.tolist() == [False, True, True, False, True]
    assert prompt.opens.tolist() == prompt.closes.tolist() == prompt.copyable.tolist()


def test_bytes_that_are_not_text_are_characters_of_their_own():
    rules, table = exported("word")
    # The first two bytes of a character of three, then a letter.
    tokens = [table.pieces.index(bytes([byte])) for byte in (0xE7, 0x81, ord("a"))]
    prompt = flag_prompt(np.array(tokens), table, rules)
    assert prompt.opens.tolist() == [True, False, True]


def test_a_document_that_the_prompt_lacks_is_named():
    rules, table = exported("character")
    _, ids, _ = prompt_of(["one two"])
    with pytest.raises(RecallSpansError, match="doesn't hold the document 'two one' word for word"):
        flag_prompt(ids, table, rules, documents=["two one"])
    # The second is looked for after the first.
    with pytest.raises(RecallSpansError, match="document 'one'"):
        flag_prompt(ids, table, rules, documents=["two", "one"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"copy_source": "response"}, "recall_spans.copy_source = 'response' is not one of prompt"),
        ({"span_alignment": "line"}, "recall_spans.span_alignment = 'line' is not one of char"),
        ({"min_length": 0}, "recall_spans.min_length = 0 must lie between 1 and"),
        ({"end_token_id": 10**6}, "recall_spans.end_token_id = 1000000 is not an id below"),
        ({"more": 1}, "config.json: the fields of 'recall_spans' differ from those of this versio"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(change, message):
    fields = {**usual_rules(TOKENIZER.to_json()), **change}
    with pytest.raises(RecallSpansError) as error:
        rules_of({"recall_spans": fields}, "config.json")
    assert message in str(error.value)


def test_a_config_without_rules_says_how_to_get_them():
    with pytest.raises(RecallSpansError, match=r"model/config.json has no 'recall_spans'; export"):
        rules_of({}, "model/config.json")
