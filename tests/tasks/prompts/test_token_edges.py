"""The edges of tokens, compared with the flags of a text that holds them."""

import itertools
import json

import numpy as np
import pytest
import tokenizers

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.prompts.span_edges import ALIGNMENTS, span_flags, token_edges
from tasks.prompts.vocabulary import Tokenizer

TEXT = "Kö 12 ab,cd naïve 日本 🙂 x-ray v2.0 end"


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_spans_open_and_close_between_tokens_as_the_text_says(alignment):
    tokenizer = tiny_tokenizer()
    inputs, offsets = tokenizer.encode_with_offsets(TEXT)
    everything = [(0, len(TEXT))]
    _, opens, closes = span_flags(tokenizer, TEXT, inputs, offsets, everything, alignment)
    edges = token_edges(tokenizer, alignment)
    boundaries = [
        bool(edges[after] & 1) and not (edges[before] & 4 and edges[after] & 2)
        for before, after in itertools.pairwise(inputs)
    ]
    assert boundaries == opens[1:].tolist() == closes[:-1].tolist()
    assert np.unique(boundaries).size == (1 if alignment == "token" else 2)


# Words of scripts whose letters carry marks, as a reader of each script parts them.
WORDS = {
    "Hindi": ["हिन्दी", " ", "में", " ", "लिखा", " ", "हुआ", "।"],
    "Hindi with a joiner": ["क्\u200dष", " ", "अक्\u200dल"],
    "Arabic with harakat": ["كِتَابٌ", " ", "مُفِيدٌ", "،", " ", "جِدًّا", "."],
    "Persian with a non-joiner": ["می\u200cخواهم", " ", "بروم"],  # noqa: RUF001
    "Hebrew with points": ["שָׁלוֹם", " ", "עֹלָם"],
    "Thai": ["ที่นี่", " ", "น้ำผึ้ง"],
    "Latin in the form NFD": ["e\u0301te\u0301", "-", "nai\u0308ve", "!"],
    "digits and keycaps": ["1\u20e3", " ", "x2"],
    "a mark on a hyphen": ["-\u0301", ".", " ", "b"],
    "a zero-width space": ["a", "\u200b", "b"],
}


def tokenizer_of_characters():
    """Return a tokenizer with a token for each character, and for all bytes."""
    content = json.loads(tiny_tokenizer().to_json())
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = {token: number for number, token in enumerate(sorted(byte_level.alphabet()))}
    merges = []
    for character in sorted(set("".join(itertools.chain.from_iterable(WORDS.values())))):
        ((piece, _),) = byte_level.pre_tokenize_str(character)
        for end in range(2, len(piece) + 1):
            if piece[:end] not in vocabulary:
                vocabulary[piece[:end]] = len(vocabulary)
                merges.append([piece[: end - 1], piece[end - 1]])
    content["model"] |= {"vocab": vocabulary, "merges": merges}
    end = {**content["added_tokens"][0], "content": "<|end|>", "id": len(vocabulary)}
    return Tokenizer(
        json.dumps(content | {"added_tokens": [end]}), chat_template="", eos_token="<|end|>"
    )


@pytest.mark.parametrize("name", WORDS)
def test_a_mark_belongs_to_its_letter(name):
    tokenizer = tokenizer_of_characters()
    text = "".join(WORDS[name])
    inputs, offsets = tokenizer.encode_with_offsets(text)
    assert len(inputs) == len(text)
    edges = list(itertools.accumulate(map(len, WORDS[name]), initial=0))
    _, opens, closes = span_flags(tokenizer, text, inputs, offsets, [(0, len(text))], "word")
    assert offsets[opens, 0].tolist() == edges[:-1]
    assert offsets[closes, 1].tolist() == edges[1:]
    # Tokens alone say the same of a text that is not known yet.
    bits = token_edges(tokenizer, "word")
    boundaries = [
        bool(bits[after] & 1) and not (bits[before] & 4 and bits[after] & 2)
        for before, after in itertools.pairwise(inputs)
    ]
    assert boundaries == opens[1:].tolist()


@pytest.mark.parametrize("name", WORDS)
def test_no_token_of_bytes_parts_a_mark_from_its_letter(name):
    """A tokenizer that knows none of these characters holds parts of them in its tokens."""
    tokenizer = tiny_tokenizer()
    text = "".join(WORDS[name])
    inputs, offsets = tokenizer.encode_with_offsets(text)
    _, opens, closes = span_flags(tokenizer, text, inputs, offsets, [(0, len(text))], "word")
    edges = set(itertools.accumulate(map(len, WORDS[name]), initial=0))
    assert set(offsets[opens, 0]) <= edges and set(offsets[closes, 1]) <= edges
