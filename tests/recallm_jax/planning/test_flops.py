"""Operations counted token by token, and matrix by matrix of a real model."""

import dataclasses

import jax
import numpy as np
import pytest

from recallm_jax.models.presets import PRESETS
from recallm_jax.models.transformer import random_transformer
from recallm_jax.planning.flops import (
    Groups,
    attention_flops,
    group_flops,
    hidden_flops,
    layer_flops,
    num_parameters,
    rollout_flops,
    score_flops,
    unembed_flops,
    update_flops,
)
from recallm_jax.planning.lengths import full, of_lengths
from recallm_jax.policy.tiny import TINY

UNTIED = dataclasses.replace(TINY, tie_embeddings=False)


def counted(config, groups, *, logits):
    """Count over all tokens: matrix products, and for each head two products per visible key.

    A group is the number of tokens of its prompt, and of each of its responses.
    """
    model = jax.eval_shape(lambda key: random_transformer(config, key), jax.random.key(0))
    of_layers = [x.shape for x in jax.tree.leaves(model.layers) if len(x.shape) == 3]
    per_token = 2 * sum(map(np.prod, of_layers))
    per_logits = 2 * np.prod(jax.tree.leaves(model.embedding)[0].shape)
    per_pair = 2 * 2 * config.num_layers * config.num_heads * config.head_dim
    total = 0
    for length, responses in groups:
        for place in range(length):
            total += per_token + per_pair * (place + 1)
        for new_tokens in responses:
            for place in range(new_tokens):
                total += per_token + per_pair * (length + place + 1) + per_logits
    return total + logits * per_logits


@pytest.mark.parametrize("config", [TINY, UNTIED])
def test_operations_agree_with_a_count_by_hand(config):
    groups = Groups(2, 3, 7, full(4))
    lengths = [(7, [4, 4, 4])] * 2
    score = counted(config, lengths, logits=0)
    assert score_flops(config, groups).model == score
    # Decoding also computes the logits of each prompt's last token.
    rollout = rollout_flops(config, groups)
    assert rollout.model == rollout.executed == counted(config, lengths, logits=2)
    prompts = counted(config, [(7, [])] * 2, logits=2)
    assert rollout_flops(config, Groups(2, 3, 7, full(0))).model == prompts


def test_operations_follow_the_tokens_of_ragged_responses():
    lengths = [(7, [1, 4, 2]), (7, [4, 9, 0])]
    groups = Groups(2, 3, 7, of_lengths([1, 4, 2, 4, 9, 0], limit=9))
    by_hand = counted(TINY, lengths, logits=0)
    assert score_flops(TINY, groups).model == pytest.approx(by_hand, rel=1e-12)
    assert update_flops(TINY, groups).model == pytest.approx(3 * by_hand, rel=1e-12)


@pytest.mark.parametrize("config", [TINY, UNTIED])
def test_operations_of_groups_of_different_lengths_are_those_of_their_tokens(config):
    prompts, responses = np.array([7, 2], np.int32), np.array([[4, 0, 1], [3, 5, 2]], np.int32)
    score = counted(config, [(7, [4, 0, 1]), (2, [3, 5, 2])], logits=0)
    assert group_flops(config, prompts, responses) == score
    assert hidden_flops(config, prompts, responses) == score - 15 * unembed_flops(config)


def test_operations_of_long_prompts_do_not_overflow():
    length = np.array([1 << 17], np.int32)
    pairs = float(sum(range((1 << 17) + 1)))
    found = hidden_flops(TINY, length, np.zeros((1, 1), np.int32))
    assert found == (1 << 17) * layer_flops(TINY) + attention_flops(TINY, pairs)


def test_an_update_is_three_passes_and_those_that_remat_repeats():
    groups = Groups(2, 3, 7, full(4))
    config = dataclasses.replace(TINY, remat="full")
    forward = score_flops(config, groups).model
    whole = update_flops(config, groups)
    assert whole.model == 3 * forward
    assert whole.executed == 4 * forward
    kept = update_flops(dataclasses.replace(config, remat="none"), groups)
    assert kept.model == whole.model
    assert 3 * forward < kept.executed < whole.executed


def test_the_presets_have_as_many_parameters_as_published():
    assert num_parameters(PRESETS["qwen2.5-7b"]) == pytest.approx(7.61e9, rel=2e-3)
    assert num_parameters(PRESETS["llama-3.1-8b"]) == pytest.approx(8.03e9, rel=2e-3)
    assert num_parameters(PRESETS["smollm2-135m"]) == pytest.approx(134.5e6, rel=2e-3)
