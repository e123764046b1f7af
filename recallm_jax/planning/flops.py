"""Floating-point operations of a model, counted by hand: two for each multiplication and addition.

The compiler's own count (`cost_analysis`) takes a loop's body once, however often it runs, so it
says little of programs that loop over layers, micro-batches and tokens.
"""

import dataclasses
import math

from recallm_jax.models.presets import ModelConfig
from recallm_jax.models.transformer import layer_specs, top_specs


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of a program on all chips.

    Attributes:
      model: what the mathematics needs; the usual "model FLOPs".
      executed: with what is computed again in the backward pass.
    """

    model: float
    executed: float


def num_parameters(config: ModelConfig) -> int:
    """Return how many numbers a model has."""
    specs = [*top_specs(config).values(), *layer_specs(config).values()]
    return sum(math.prod(spec.shape) for spec in specs)


def layer_flops(config: ModelConfig) -> float:
    """Return the operations of all layers' matrix products for one token."""
    matrices = [spec.shape for spec in layer_specs(config).values() if len(spec.shape) == 3]
    return 2.0 * sum(math.prod(shape) for shape in matrices)


def unembed_flops(config: ModelConfig) -> float:
    """Return the operations of one token's logits."""
    return 2.0 * config.width * config.vocab_rows


def attention_flops(config: ModelConfig, pairs: float) -> float:
    """Return the operations of all layers' attention over so many pairs of query and key."""
    return 4.0 * config.num_layers * config.num_heads * config.head_dim * pairs


def prefill_flops(config: ModelConfig, prompts: int, length: int) -> float:
    """Return the operations of reading prompts of so many tokens, each token seeing those before.

    Only the last token of a prompt has logits.
    """
    tokens = prompts * length
    pairs = prompts * length * (length + 1) / 2
    return (
        tokens * layer_flops(config)
        + attention_flops(config, pairs)
        + prompts * unembed_flops(config)
    )


def rollout_flops(
    config: ModelConfig, *, prompts: int, group_size: int, length: int, new_tokens: int
) -> Work:
    """Return the operations of sampling `new_tokens` of each response under full prompts."""
    rows = prompts * group_size
    pairs = rows * (new_tokens * length + new_tokens * (new_tokens + 1) / 2)
    decoded = rows * new_tokens * (layer_flops(config) + unembed_flops(config))
    total = prefill_flops(config, prompts, length) + decoded + attention_flops(config, pairs)
    return Work(total, total)


def score_flops(
    config: ModelConfig, *, prompts: int, group_size: int, length: int, new_tokens: int
) -> Work:
    """Return the operations of scoring full responses, a group's prompt computed once."""
    rows = prompts * group_size
    tokens = prompts * length + rows * new_tokens
    pairs = prompts * length * (length + 1) / 2
    pairs += rows * (new_tokens * length + new_tokens * (new_tokens + 1) / 2)
    total = (
        tokens * layer_flops(config)
        + attention_flops(config, pairs)
        + rows * new_tokens * unembed_flops(config)
    )
    return Work(total, total)


def update_flops(config: ModelConfig, **sizes: int) -> Work:
    """Return the operations of an update: forward, backward (twice as much), and what it repeats.

    With `remat` "full" the layers run forward twice; logits always do (they exist a chunk at a
    time).
    """
    forward = score_flops(config, **sizes).model
    rows = sizes["prompts"] * sizes["group_size"]
    logits = rows * sizes["new_tokens"] * unembed_flops(config)
    again = logits + (forward - logits if config.remat == "full" else 0.0)
    return Work(3 * forward, 3 * forward + again)
