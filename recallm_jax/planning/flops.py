"""Floating-point operations of a model, by formula: a multiplication and an addition are two.

The compiler's count (`cost_analysis`) includes the body of each loop only once, so it is far too
low for programs that loop over layers, micro-batches and tokens.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Int

from recallm_jax.models.parameters import layer_specs, top_specs
from recallm_jax.models.presets import ModelConfig
from recallm_jax.planning.lengths import LengthDistribution


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of a program on all chips.

    Attributes:
      model: the operations that the mathematics needs, the usual "model FLOPs".
      executed: these, and the operations that the backward pass repeats.
    """

    model: float
    executed: float


@dataclasses.dataclass(frozen=True)
class Groups:
    """Prompts with their responses: the tokens that the work of a program follows from.

    Attributes:
      prompts: the number of prompts.
      group_size: responses to each prompt.
      length: tokens of each prompt.
      responses: the lengths of the responses.
    """

    prompts: int
    group_size: int
    length: int
    responses: LengthDistribution

    @property
    def rows(self) -> int:
        """The number of responses."""
        return self.prompts * self.group_size

    @property
    def new_tokens(self) -> float:
        """The expected tokens of all responses."""
        return self.rows * self.responses.mean

    @property
    def tokens(self) -> float:
        """The expected tokens of prompts and responses; a group's prompt counts once."""
        return self.prompts * self.length + self.new_tokens


def num_parameters(config: ModelConfig) -> int:
    """Return the number of a model's parameters."""
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
    """Return the operations of all layers' attention over `pairs` of query and key."""
    return 4.0 * config.num_layers * config.num_heads * config.head_dim * pairs


def hidden_flops(
    config: ModelConfig, prompts: Int[np.ndarray, " B"], responses: Int[np.ndarray, "B G"]
) -> float:
    """Return the operations of the hidden states of groups, one forward pass without logits.

    A group's prompt is computed once. Each token attends to those before it and to itself.

    Args:
      prompts, responses: the tokens of each prompt and response.
    """
    # The products of lengths may exceed 32 bits.
    prompts, responses = prompts.astype(np.float64), responses.astype(np.float64)
    pairs = (prompts * (prompts + 1)).sum() / 2
    pairs += (responses * (prompts[:, None] + (responses + 1) / 2)).sum()
    tokens = prompts.sum() + responses.sum()
    return float(tokens * layer_flops(config) + attention_flops(config, pairs))


def group_flops(
    config: ModelConfig, prompts: Int[np.ndarray, " B"], responses: Int[np.ndarray, "B G"]
) -> float:
    """Return the operations of scoring groups: `hidden_flops`, and the logits of the responses."""
    logits = float(responses.sum()) * unembed_flops(config)
    return hidden_flops(config, prompts, responses) + logits


def score_flops(config: ModelConfig, groups: Groups) -> Work:
    """Return the expected operations of scoring groups; a prompt is computed once."""
    length, responses = groups.length, groups.responses
    pairs = groups.prompts * length * (length + 1) / 2
    pairs += groups.rows * (responses.mean * length + responses.pairs)
    total = (
        groups.tokens * layer_flops(config)
        + attention_flops(config, pairs)
        + groups.new_tokens * unembed_flops(config)
    )
    return Work(total, total)


def rollout_flops(config: ModelConfig, groups: Groups) -> Work:
    """Return the operations of sampling responses to prompts.

    Logits are computed for the last token of each prompt besides.
    """
    total = score_flops(config, groups).model + groups.prompts * unembed_flops(config)
    return Work(total, total)


def update_flops(config: ModelConfig, groups: Groups) -> Work:
    """Return the operations of an update: forward, backward (twice as many), and recomputation.

    Logits are always computed twice, because only a chunk of them is kept at a time. With `remat`
    "full" the layers run forward twice as well. Frozen matrices have no gradients of their own,
    which are half of a backward pass.
    """
    forward = score_flops(config, groups).model
    logits = groups.new_tokens * unembed_flops(config)
    again = logits + (forward - logits if config.remat == "full" else 0.0)
    frozen = 0.0
    if config.lora is not None:
        base = dataclasses.replace(config, lora=None)
        frozen = groups.tokens * layer_flops(base) + logits
    return Work(3 * forward - frozen, 3 * forward - frozen + again)
