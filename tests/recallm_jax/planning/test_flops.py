"""Operations counted token by token, and matrix by matrix of a real model."""

import dataclasses

import jax
import numpy as np
import pytest

from recallm_jax.models.presets import PRESETS
from recallm_jax.models.transformer import random_transformer
from recallm_jax.planning.flops import (
    num_parameters,
    rollout_flops,
    score_flops,
    update_flops,
)
from recallm_jax.policy.tiny import TINY

UNTIED = dataclasses.replace(TINY, tie_embeddings=False)


def counted(config, *, prompts, group_size, length, new_tokens, prompt_once, logits):
    """Count over all tokens: matrix products, and for each head two products per visible key."""
    model = jax.eval_shape(lambda key: random_transformer(config, key), jax.random.key(0))
    of_layers = [x.shape for x in jax.tree.leaves(model.layers) if len(x.shape) == 3]
    per_token = 2 * sum(map(np.prod, of_layers))
    per_logits = 2 * np.prod(jax.tree.leaves(model.embedding)[0].shape)
    per_pair = 2 * 2 * config.num_layers * config.num_heads * config.head_dim
    total = 0
    for _ in range(prompts):
        for _ in range(1 if prompt_once else group_size):
            for place in range(length):
                total += per_token + per_pair * (place + 1)
        for _ in range(group_size):
            for place in range(new_tokens):
                total += per_token + per_pair * (length + place + 1) + per_logits
    return total + logits * per_logits


@pytest.mark.parametrize("config", [TINY, UNTIED])
def test_operations_agree_with_a_count_by_hand(config):
    sizes = {"prompts": 2, "group_size": 3, "length": 7, "new_tokens": 4}
    score = counted(config, **sizes, prompt_once=True, logits=0)
    assert score_flops(config, **sizes).model == score
    # Decoding also computes the logits of each prompt's last token.
    rollout = rollout_flops(config, **sizes)
    assert rollout.model == rollout.executed == counted(config, **sizes, prompt_once=True, logits=2)
    no_tokens = {**sizes, "new_tokens": 0}
    prompts = counted(config, **no_tokens, prompt_once=True, logits=2)
    assert rollout_flops(config, **no_tokens).model == prompts


def test_an_update_is_three_passes_and_those_that_remat_repeats():
    sizes = {"prompts": 2, "group_size": 3, "length": 7, "new_tokens": 4}
    config = dataclasses.replace(TINY, remat="full")
    forward = score_flops(config, **sizes).model
    full = update_flops(config, **sizes)
    assert full.model == 3 * forward
    assert full.executed == 4 * forward
    kept = update_flops(dataclasses.replace(config, remat="none"), **sizes)
    assert kept.model == full.model
    assert 3 * forward < kept.executed < full.executed


def test_the_presets_have_as_many_parameters_as_published():
    assert num_parameters(PRESETS["qwen2.5-7b"]) == pytest.approx(7.61e9, rel=2e-3)
    assert num_parameters(PRESETS["llama-3.1-8b"]) == pytest.approx(8.03e9, rel=2e-3)
    assert num_parameters(PRESETS["smollm2-135m"]) == pytest.approx(134.5e6, rel=2e-3)
