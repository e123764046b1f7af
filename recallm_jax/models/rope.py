"""Rotary position embeddings with plain, linear, llama3 and YaRN frequencies."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from recallm_jax.models.presets import ModelConfig, RopeScaling


def frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """Return the H/2 angular frequencies, in radians a position, and the factor on cos and sin.

    Sources: RoFormer (arXiv 2104.09864); position interpolation (arXiv 2306.15595) for "linear";
    the Llama 3.1 release for "llama3"; YaRN (arXiv 2309.00071, sections 3.2 to 3.4) for "yarn",
    with the options that transformers' `modeling_rope_utils` adds.
    """
    half = config.head_dim // 2
    plain = config.rope_theta ** -(np.arange(half, dtype=np.float64) / half)
    scaling = config.rope_scaling
    if scaling is None:
        return plain, 1.0
    if scaling.kind == "linear":
        return plain / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(plain, scaling), 1.0
    if scaling.kind == "yarn":
        return _yarn(plain, scaling, config), _attention_factor(scaling)
    raise ValueError(f"rope scaling {scaling.kind!r} is unknown; use 'linear', 'llama3' or 'yarn'")


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Keep the frequencies of short wavelengths, divide those of long ones, blend in between."""
    turns = scaling.original_max_positions * plain / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return keep * plain + (1 - keep) * plain / scaling.factor


def _yarn(plain: np.ndarray, scaling: RopeScaling, config: ModelConfig) -> np.ndarray:
    """Interpolate the dimensions that turn less than beta_slow times, keep those past beta_fast."""

    def dimension(turns: float) -> float:
        angle = scaling.original_max_positions / (turns * 2 * math.pi)
        return config.head_dim * math.log(angle) / (2 * math.log(config.rope_theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    # Equal bounds make a step of the ramp.
    ramp = np.clip((np.arange(len(plain)) - low) / ((high - low) or 0.001), 0.0, 1.0)
    return plain / scaling.factor * ramp + plain * (1 - ramp)


def _attention_factor(scaling: RopeScaling) -> float:
    """Return YaRN's factor: 0.1 m ln(s) + 1, for m = 1 or as the ratio of both mscales."""

    def weighted(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return weighted(scaling.mscale) / weighted(scaling.mscale_all_dim)
    return weighted(1.0)


def rotation(
    config: ModelConfig, positions: Int[Array, "*rows"]
) -> tuple[Float[Array, "*rows half"], Float[Array, "*rows half"]]:
    """Return float32 cos and sin of every position, scaled by the attention factor."""
    freqs, factor = frequencies(config)
    angles = (
        positions[..., None].astype(jnp.float32)
        * jnp.asarray(freqs, jnp.float32)[(None,) * positions.ndim]
    )
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


def rotate(
    x: Float[Array, "*rows heads H"],
    cos: Float[Array, "*#rows half"],
    sin: Float[Array, "*#rows half"],
) -> Float[Array, "*rows heads H"]:
    """Rotate the pairs (i, i + H/2) of each head, in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
