"""cuDNN's attention: what the programs of a GPU hold, and on a GPU its values and gradients."""

import collections
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recallm_jax.models import cudnn
from recallm_jax.models.attention import Projected
from recallm_jax.models.group_attention import attend_group, attend_prompt
from recallm_jax.policy.partitioning import make_mesh, placement

FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
NEEDED = {FORWARD: 1, BACKWARD: 1}


def tokens(shape=(2, 256), heads=4, key_heads=2, size=64, dtype=jnp.bfloat16, seed=0) -> Projected:
    keys = jax.random.split(jax.random.key(seed), 3)
    return Projected(
        *(
            jax.random.normal(key, (*shape, count, size), dtype)
            for key, count in zip(keys, (heads, key_heads, key_heads), strict=True)
        )
    )


@pytest.fixture
def found(monkeypatch):
    """Let JAX believe that cuDNN is here: lowering asks for its version."""
    from jax._src.cudnn import fused_attention_stablehlo as interface

    monkeypatch.setattr(interface, "check_cudnn_version", lambda: 91_000)


def calls(function, *arguments) -> collections.Counter[str]:
    """Return how often a GPU's program calls each routine of cuDNN."""
    program = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    found = collections.Counter(re.findall(r"custom_call @(__cudnn[$\w]+)", program))
    # A query sees no later key.
    assert len(re.findall(r"mask_type[^,]*CAUSAL", program)) == found.total()
    return found


@pytest.mark.parametrize("axes", [{}, {"data": 2}, {"data": 2, "tensor": 2}])
def test_prompts_attend_by_cudnn_in_the_programs_of_a_gpu(found, axes):
    place = placement(make_mesh(**axes, devices=jax.devices()[:1] if not axes else None))
    place = placement(place.mesh, attention="cudnn")

    def loss(prompt):
        return attend_prompt(prompt, place).astype(jnp.float32).sum()

    assert calls(jax.grad(loss), tokens()) == NEEDED


def test_a_group_s_prompts_attend_by_cudnn_and_its_responses_by_plain_xla(found):
    place = placement(make_mesh(devices=jax.devices()[:1]), attention="cudnn")
    lengths = jnp.full(2, 256, jnp.int32)

    def loss(prompt, own):
        mixed = attend_group(prompt, own, lengths, None, place)
        return sum(x.astype(jnp.float32).sum() for x in mixed)

    assert calls(jax.grad(loss, argnums=(0, 1)), tokens(), tokens((2, 3, 32))) == NEEDED


@pytest.mark.parametrize("unfit", [{"dtype": jnp.float32}, {"size": 60}, {"size": 256}])
def test_other_sizes_and_types_attend_by_plain_xla(unfit):
    place = placement(make_mesh(devices=jax.devices()[:1]), attention="cudnn")
    prompt = tokens(**unfit)
    assert not cudnn.takes(prompt.query)
    assert not calls(lambda prompt: attend_prompt(prompt, place), prompt)


COMPARE = "from tests.recallm_jax.models.test_cudnn import compare_with_plain_xla as f; f()"


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU")
def test_a_gpu_computes_what_plain_xla_computes():
    # These tests run on CPUs whatever there is.
    kept = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    kept["XLA_FLAGS"] = ""
    subprocess.run([sys.executable, "-c", COMPARE], env=kept, check=True)


def compare_with_plain_xla():
    """Compare values and gradients on the first device."""
    prompt = tokens((2, 1024))

    def both(attention):
        place = placement(make_mesh(devices=jax.devices()[:1]), attention=attention)

        def loss(prompt):
            mixed = attend_prompt(prompt, place).astype(jnp.float32)
            return (mixed * jnp.cos(jnp.arange(mixed.size).reshape(mixed.shape))).sum(), mixed

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(prompt)

    for got, wanted in zip(*map(jax.tree.leaves, (both("cudnn"), both("xla"))), strict=True):
        got, wanted = np.asarray(got, np.float32), np.asarray(wanted, np.float32)
        assert np.abs(got - wanted).max() < 2e-2 * np.abs(wanted).max()
