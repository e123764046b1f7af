"""Losses and advantages against those of TRL's trainers and RLax for the same numbers.

tests/golden/make_rl_golden.py writes their figures.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl.advantages import generalized
from rl.losses import (
    aggregate,
    clipped_surrogate,
    kl_k3,
    loss_denominator,
    sequence_log_ratio,
    token_log_ratio,
    truncated_importance,
)

GOLDEN = json.loads(pathlib.Path("tests/golden/rl.json").read_text(encoding="utf-8"))
SETTINGS = GOLDEN["settings"]
CLIPS = {name: SETTINGS[name] for name in ("clip_low", "clip_high")}
# The trainers' rows are our groups of one.
ROWS = {name: jnp.array(x, jnp.float32)[:, None] for name, x in GOLDEN["inputs"].items()}
ADVANTAGES, LENGTHS = ROWS["advantages"][..., None], ROWS["lengths"]
LIMIT = ROWS["new"].shape[-1]
MASK = jnp.arange(LIMIT)[None, None] < LENGTHS[..., None]


def mean_of(values, aggregation):
    denominator = loss_denominator(MASK, aggregation, max_tokens=LIMIT)
    return aggregate(values, MASK, denominator, aggregation)


@pytest.mark.parametrize(
    "case", GOLDEN["trl_grpo"], ids=lambda x: f"{x['ratio']}-{x['aggregation']}"
)
def test_the_loss_of_the_grpo_family_equals_that_of_trl(case):
    def loss(new):
        if case["ratio"] == "sequence":
            log_ratio = sequence_log_ratio(new, ROWS["old"], MASK)
        else:
            log_ratio = token_log_ratio(new, ROWS["old"])
        cap = SETTINGS["importance_cap"]
        weights = truncated_importance(ROWS["old"], ROWS["sampler"], cap=cap)
        kl = SETTINGS["kl_coefficient"] * kl_k3(new, ROWS["reference"])
        surrogate = clipped_surrogate(log_ratio, ADVANTAGES, **CLIPS)
        return mean_of(weights * surrogate + kl, case["aggregation"])

    value, gradient = jax.value_and_grad(loss)(ROWS["new"])
    assert value == pytest.approx(case["loss"], rel=1e-5)
    np.testing.assert_allclose(gradient[:, 0], case["gradient"], rtol=1e-4, atol=1e-7)


def test_the_gradient_of_rloo_equals_that_of_trl_up_to_a_constant():
    """At the first update of a batch; TRL sums over a response, we divide by its limit too."""
    golden = GOLDEN["trl_rloo"]

    def loss(new):
        log_ratio = token_log_ratio(new, jax.lax.stop_gradient(new))
        return mean_of(clipped_surrogate(log_ratio, ADVANTAGES, **CLIPS), "constant")

    gradient = jax.grad(loss)(ROWS["new"])
    np.testing.assert_allclose(LIMIT * gradient[:, 0], golden["gradient"], rtol=1e-4, atol=1e-7)


def test_generalized_advantages_equal_those_of_rlax():
    settings = {name: SETTINGS[name] for name in ("discount", "trace_decay")}
    everywhere = jnp.ones_like(MASK)
    found = generalized(ROWS["rewards"], ROWS["values"], everywhere, **settings)
    np.testing.assert_allclose(found[:, 0], GOLDEN["rlax_advantages"], rtol=1e-4, atol=1e-6)


def test_the_clipped_surrogate_equals_that_of_rlax():
    log_ratio = token_log_ratio(ROWS["new"], ROWS["old"])
    found = clipped_surrogate(log_ratio, ADVANTAGES, clip_low=0.2, clip_high=0.2)
    assert found.mean() == pytest.approx(GOLDEN["rlax_surrogate_0.2"], rel=1e-5)
