"""What the programs of a run are given, described instead of made: shapes, types and shardings."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array
from ml_collections import ConfigDict

from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.span_copy import SpanRules, index_prompts
from recallm_jax.models.transformer import CACHE, PROMPT_CACHE, Transformer, random_transformer
from recallm_jax.planning.sizes import model_sizes
from recallm_jax.policy import partitioning
from recallm_jax.policy.context import Context
from recallm_jax.policy.setup import check_lengths
from recallm_jax.policy.tiny import tiny_tokenizer
from recallm_jax.runtime.console import Console
from recallm_jax.training.restore import first_state
from recallm_jax.training.stages import Stage
from rl.batch import Batch
from rl.learner import LearnerState


def abstract_context(config: ConfigDict, devices: Sequence[jax.Device]) -> Context:
    """Return the context of a job on these devices, its policy described.

    The tokenizer is a small one that stands in for the model's own: its ids are constants in the
    programs, and change none of their sizes.

    Raises:
      UserError: the model's sizes are not known, or don't fit the mesh or the lengths.
    """
    sizes = model_sizes(config)
    check_lengths(config, sizes)
    mesh = partitioning.make_mesh(**config.mesh, devices=devices)
    partitioning.check_config(sizes, mesh)
    model = jax.eval_shape(functools.partial(random_transformer, sizes), jax.random.key(0))
    dtype = jnp.dtype(config.model.param_dtype)
    model = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), model)
    policy = partitioning.place_model(model, mesh, attention=config.model.attention)
    return Context(policy, tiny_tokenizer(), mesh, Console(silent=True))


def learner_state(policy: Transformer, stage: Stage, context: Context) -> LearnerState:
    """Return the state before a stage's first update."""
    state = jax.eval_shape(lambda policy: first_state(policy, stage), policy)
    shardings = partitioning.state_shardings(state, policy.config, context.mesh)
    return partitioning.abstract(state, shardings)


def prompts(context: Context, count: int, length: int) -> Prompts:
    """Return a batch of padded prompts."""

    def make() -> Prompts:
        flags = jnp.zeros((count, length), bool)
        return Prompts(
            tokens=jnp.zeros((count, length), jnp.int32),
            lengths=jnp.zeros(count, jnp.int32),
            copyable=flags,
            span_start=flags,
            span_end=flags,
        )

    return _placed(context, make)


def keys(context: Context, count: int, group_size: int) -> jax.ShapeDtypeStruct:
    """Return the keys of the rows of a batch."""
    dtype = jax.random.key(0).dtype
    sharding = context.batch_sharding(count)
    return jax.ShapeDtypeStruct((count, group_size), dtype, sharding=sharding)


def rollout(
    context: Context,
    rules: SpanRules,
    *,
    count: int,
    group_size: int,
    length: int,
    new_tokens: int,
    sampled: bool,
) -> Rollout:
    """Return groups of responses under their prompts."""
    of_prompts = prompts(context, count, length)

    def make(of_prompts: Prompts) -> Rollout:
        return Rollout(
            prompts=of_prompts,
            index=index_prompts(of_prompts, rules, context.policy.vocab_rows),
            tokens=jnp.zeros((count, group_size, new_tokens), jnp.int32),
            lengths=jnp.zeros((count, group_size), jnp.int32),
            log_probs=jnp.zeros((count, group_size, new_tokens)) if sampled else None,
        )

    return _placed(context, make, of_prompts)


def batch(context: Context, rollout: Rollout, options: ConfigDict, *, critic: bool) -> Batch:
    """Return what an update of a policy-gradient stage reads (`policy_batch.make_batch`)."""
    shape = rollout.tokens.shape

    def make(rollout: Rollout) -> Batch:
        tokens = jnp.zeros(shape, jnp.float32)
        several = options.minibatches * options.epochs > 1
        in_loss = bool(options.kl_coefficient) and not critic and options.kl_in == "loss"
        return Batch(
            rollout=rollout,
            advantages=tokens if critic else tokens[..., :1],
            old_log_probs=tokens if critic or several else None,
            reference_log_probs=tokens if in_loss else None,
            old_values=tokens if critic else None,
            returns=tokens if critic else None,
        )

    return _placed(context, make, rollout)


def caches(
    policy: Transformer,
    context: Context,
    *,
    count: int,
    group_size: int,
    length: int,
    new_tokens: int,
) -> dict[str, Any]:
    """Return the keys and values of a rollout's prompts and responses.

    Args:
      policy: as decoding reads it.
    """
    of_prompts = prompts(context, count, length)

    def make(policy: Transformer, of_prompts: Prompts) -> Any:
        _, cache = policy.prefill(of_prompts.tokens, of_prompts.lengths)
        return policy.start(cache, group_size, new_tokens)

    cache = jax.eval_shape(make, policy, of_prompts)
    placement = policy.placement
    assert placement is not None

    def lying(tree: Any, axes: tuple[str | None, ...]) -> Any:
        def one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            full = (None,) * (len(x.shape) - len(axes)) + axes
            spec = placement.spec(full, x.shape)
            return x.update(sharding=NamedSharding(placement.mesh, spec))

        return jax.tree.map(one, tree)

    return {
        "prompts": lying((cache.prompt_keys, cache.prompt_values), PROMPT_CACHE),
        "responses": lying((cache.keys, cache.values), CACHE),
    }


def _placed(context: Context, make: Callable, *given: Any) -> Any:
    """Return the arrays that a function makes, placed as `Context.place` does."""
    shapes = jax.eval_shape(make, *given)
    sharding = context.batch_sharding(*{x.shape[0] for x in jax.tree.leaves(shapes)})
    return jax.tree.map(lambda x: x.update(sharding=sharding), shapes)


def part(tree: Any, size: int) -> Any:
    """Return arrays with the first `size` prompts of a batch."""

    def one(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype, sharding=x.sharding)

    return jax.tree.map(one, tree)
