"""The added tokens get the ids after the tokenizer's own, and rows near the mean."""

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.added_tokens import add_tokens
from tasks.prompts.vocabulary import ADDED_TOKENS
from tests.oracles.tiny_models import tiny_model

ROWS = 40


def tokenizer_json(size, *added):
    tokenizer = Tokenizer(BPE(vocab={chr(0x4E00 + n): n for n in range(size)}, merges=[]))
    tokenizer.add_tokens(list(added))
    return tokenizer.to_str()


@pytest.mark.parametrize("name", ["llama_plain", "qwen3_plain"])
def test_rows_are_appended_near_the_mean_and_padded(name):
    model = tiny_model(name)
    grown, text = add_tokens(model, tokenizer_json(ROWS), seed=0, rows_multiple=16)
    tokenizer = Tokenizer.from_str(text)
    assert [tokenizer.token_to_id(token) for token in ADDED_TOKENS] == [40, 41, 42, 43]
    assert grown.config.vocab_rows == 48
    for matrix in ("embedding",) if model.config.tie_embeddings else ("embedding", "output"):
        before = np.asarray(getattr(model, matrix)[...])
        after = np.asarray(getattr(grown, matrix)[...])
        np.testing.assert_array_equal(after[:ROWS], before)
        new, spread = after[40:44], before.std(axis=0)
        assert np.all(np.abs(new - before.mean(axis=0)) < 0.5 * spread)
        assert len(np.unique(new, axis=0)) == 4
        assert not after[44:].any()


def test_spare_rows_are_used_and_tokens_that_exist_keep_theirs():
    # Like Qwen, with more rows than ids; and like Qwen3, with <think> already there.
    model = tiny_model("qwen2_plain")
    grown, text = add_tokens(
        model, tokenizer_json(30, "<think>", "</think>"), seed=0, rows_multiple=8
    )
    tokenizer = Tokenizer.from_str(text)
    assert [tokenizer.token_to_id(token) for token in ADDED_TOKENS] == [32, 33, 30, 31]
    before, after = (np.asarray(m.embedding[...]) for m in (model, grown))
    assert before.shape == after.shape
    changed = np.flatnonzero((before != after).any(axis=1))
    assert changed.tolist() == [32, 33]


def test_a_vocabulary_with_gaps_keeps_its_ids_and_their_rows():
    vocabulary = {chr(0x4E00 + n): n for n in (*range(10), 15, 20)}
    gaps = Tokenizer(BPE(vocab=vocabulary, merges=[])).to_str()
    model = tiny_model("llama_plain")
    grown, text = add_tokens(model, gaps, seed=0, rows_multiple=8)
    tokenizer = Tokenizer.from_str(text)
    assert [tokenizer.token_to_id(token) for token in ADDED_TOKENS] == [21, 22, 23, 24]
    assert {token: tokenizer.token_to_id(token) for token in vocabulary} == vocabulary
    assert tokenizer.encode("\u4e0f<think>\u4e14").ids == [15, 23, 20]
    before, after = (np.asarray(m.embedding[...]) for m in (model, grown))
    assert np.flatnonzero((before != after).any(axis=1)).tolist() == [21, 22, 23, 24]
    # Ids without a token have rows that were never trained; they don't count.
    own = before[[*range(10), 15, 20]]
    assert np.all(np.abs(after[21:25] - own.mean(axis=0)) < 0.5 * own.std(axis=0))


def test_adding_twice_changes_nothing_more():
    once = add_tokens(tiny_model("llama_plain"), tokenizer_json(ROWS), seed=0)
    twice = add_tokens(*once, seed=1)
    assert twice[1] == once[1]
    jax.tree.map(np.testing.assert_array_equal, twice[0], once[0])


def test_the_seed_draws_the_noise():
    def rows(seed):
        model, _ = add_tokens(tiny_model("llama_plain"), tokenizer_json(ROWS), seed=seed)
        return np.asarray(model.embedding[...])[40:44]

    np.testing.assert_array_equal(rows(0), rows(0))
    assert (rows(0) != rows(1)).any()


def test_added_tokens_are_whole_and_stay_visible():
    _, text = add_tokens(tiny_model("llama_plain"), tokenizer_json(ROWS), seed=0)
    tokenizer = Tokenizer.from_str(text)
    ids = tokenizer.encode("\u4e00<|start_recall|>\u4e01<|end_recall|></think>").ids
    assert ids == [0, 40, 1, 41, 43]
    assert "<|start_recall|>" in tokenizer.decode(ids, skip_special_tokens=True)


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(UserError, match="ids up to 40, but the embedding has 40 rows"):
        add_tokens(tiny_model("llama_plain"), tokenizer_json(41), seed=0)
