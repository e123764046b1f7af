"""The edges of tokens, compared with the flags of a text that holds them."""

import itertools

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.prompts.record import ALIGNMENTS, span_flags, token_edges

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
