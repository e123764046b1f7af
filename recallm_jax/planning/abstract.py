"""Descriptions of the arrays that a run's programs read: shapes, types and shardings.

The run's own functions give the shapes (`jax.eval_shape`): as in training, records become prompts,
prompts become a rollout, and a rollout becomes a batch. No array is made.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from decoding.decode_loop import Limits
from decoding.driver import decode_at_once
from decoding.packing import RowSize, Slots
from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.sampling import Sampling, row_keys
from recallm_jax.data.arrays import demonstrations, prompts_and_texts
from recallm_jax.models.kv_cache import PROMPTS, RESPONSES
from recallm_jax.models.transformer import Transformer, random_transformer
from recallm_jax.planning.sizes import model_sizes
from recallm_jax.policy import partitioning
from recallm_jax.policy.context import Context
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.policy.setup import check_lengths
from recallm_jax.policy.tiny import tiny_files
from recallm_jax.runtime.console import Console
from recallm_jax.training.batch import batch_of
from recallm_jax.training.policy_gradient import minibatches, rows_of
from recallm_jax.training.policy_stage import PolicyStage
from recallm_jax.training.restore import first_state
from recallm_jax.training.rollouts import interleaved
from recallm_jax.training.sft import demonstrated
from recallm_jax.training.stages import Stage, training_rules
from rl.batch import Batch, ScoredRollout
from rl.learner import LearnerState, changed_part, with_changed
from rl.micro_batches import Parts
from rl.packing import one_a_row


def abstract_context(config: ConfigDict, devices: Sequence[jax.Device]) -> Context:
    """Return the context of a job on these devices, with a description of its policy.

    A small tokenizer stands in for the model's own: its ids are constants in the programs and do
    not change their sizes.

    Raises:
      UserError: the model's sizes are unknown, or do not fit the mesh or the lengths.
    """
    sizes = model_sizes(config)
    check_lengths(config, sizes)
    mesh = partitioning.make_mesh(**config.mesh, devices=devices)
    partitioning.check_config(sizes, mesh)
    partitioning.check_attention(config.model.attention, mesh)
    model = jax.eval_shape(functools.partial(random_transformer, sizes), jax.random.key(0))
    dtype, adapters = jnp.dtype(config.model.param_dtype), model.trained()
    model = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), model)
    if sizes.lora is not None:
        model = model.with_trained(adapters)
    policy = partitioning.place_model(model, mesh, attention=config.model.attention)
    files = tiny_files()
    return Context(policy, files.tokenizer(), files, mesh, Console(silent=True))


def learner_state(policy: Transformer, stage: Stage, context: Context) -> LearnerState:
    """Return the state before a stage's first update."""
    state = jax.eval_shape(lambda policy: first_state(policy, stage), policy)
    shardings = partitioning.state_shardings(state, policy.config, context.mesh)
    state = partitioning.abstract(state, shardings)
    critic = state.critic
    if critic is not None and critic.trunk is not None:
        critic = dataclasses.replace(critic, trunk=policy)
    # Frozen arrays are the very ones of the given policy.
    frozen = dataclasses.replace(state, policy=policy, critic=critic)
    return with_changed(frozen, changed_part(state))


def copied(tree: Any) -> Any:
    """Describe copies of arrays."""
    return jax.tree.map(lambda x: x.update(), tree)


def prompts(context: Context, count: int, length: int) -> Prompts:
    """Describe a batch of padded prompts, with the types that records give it."""
    of_no_record, _ = prompts_and_texts([], length)
    return _placed(context, _many(of_no_record, count))


def shown(config: ConfigDict, context: Context, stage: Stage) -> Rollout:
    """Describe the demonstrations of one step of the cold start."""
    arrays = demonstrations([], config.decoding.max_new_tokens)
    make = functools.partial(
        demonstrated,
        rules=training_rules(config, context),
        num_rows=context.policy.vocab_rows,
    )
    given = prompts(context, stage.batch_size, config.data.target_length)
    return _placed(context, jax.eval_shape(make, given, *_many(arrays, stage.batch_size)))


@dataclasses.dataclass(frozen=True)
class Decoding:
    """A call of `decode` on a mesh; all arrays are descriptions.

    Attributes:
      policy: the policy with decoding's layout and types (`for_rollout`).
    """

    context: Context
    policy: Transformer
    prompts: Prompts
    keys: jax.ShapeDtypeStruct
    sampling: Sampling
    limits: Limits

    def lower(self) -> Any:
        """Trace the program."""
        return decode_at_once.lower(
            self.policy, self.prompts, self.keys, self.sampling, self.limits
        )

    def rollout(self) -> Rollout:
        """Describe the rollout that the call returns."""
        call = functools.partial(decode_at_once, sampling=self.sampling, limits=self.limits)
        return _placed(self.context, jax.eval_shape(call, self.policy, self.prompts, self.keys))

    def caches(self) -> dict[str, Any]:
        """Describe the keys and values of the prompts and of the responses."""
        count, group_size = self.keys.shape

        def begin(policy: Transformer) -> Any:
            size, capacity = self.prompts.tokens.shape[1], self.limits.max_new_tokens
            return policy.start(count, group_size, size=size, capacity=capacity)

        cache = jax.eval_shape(begin, self.policy)
        placement = self.policy.placement
        assert placement is not None

        def lying(tree: Any, axes: tuple[str | None, ...]) -> Any:
            def one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
                full = (None,) * (len(x.shape) - len(axes)) + axes
                spec = placement.spec(full, x.shape)
                return x.update(sharding=NamedSharding(placement.mesh, spec))

            return jax.tree.map(one, tree)

        return {
            "prompts": lying((cache.prompt_keys, cache.prompt_values), PROMPTS),
            "responses": lying((cache.keys, cache.values), RESPONSES),
        }


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """The sizes of a batch that is decoded together.

    Attributes:
      prompts: the number of prompts.
      length: tokens of each padded prompt.
      size: responses to each prompt.
    """

    prompts: int
    length: int
    size: int


def decoding(
    context: Context, policy: Policy, sizes: BatchSizes, sampling: Sampling, limits: Limits
) -> Decoding:
    """Describe a call of `decode`.

    Args:
      policy: the policy with training's layout and types.
    """
    numbers = jax.ShapeDtypeStruct((sizes.prompts,), np.uint32)
    keys = jax.eval_shape(lambda numbers: row_keys(0, 0, numbers, sizes.size), numbers)
    return Decoding(
        context,
        for_rollout(policy),
        prompts(context, sizes.prompts, sizes.length),
        _placed(context, keys),
        sampling,
        limits,
    )


def sampled(run: PolicyStage, part: Decoding) -> Rollout:
    """Describe the rollout of a step, given the call that decodes one part of it."""
    parts = [part.rollout()] * run.options.rollout_parts
    return _placed(run.context, jax.eval_shape(lambda *parts: interleaved(parts), *parts))


def batch(run: PolicyStage, state: LearnerState, reference: Policy, rollout: Rollout) -> Batch:
    """Describe the batch that `make_batch` returns for a rollout."""

    def make(state: LearnerState, reference: Policy, rollout: Rollout) -> Batch:
        # The host makes the rewards: a float32 number and a flag for each response.
        totals = jnp.zeros(rollout.lengths.shape, jnp.float32)
        scored = ScoredRollout(rollout, totals, jnp.ones(totals.shape, bool))
        packing = one_a_row(*rollout.tokens.shape)
        return batch_of(run, state, reference, scored, packing)[0]

    return _placed(run.context, jax.eval_shape(make, state, reference, rollout))


def parts(context: Context, rollout: Rollout, size: RowSize, micro_batch: int) -> Parts:
    """Describe the micro-batches of a batch, with rows of one size."""
    slot = jax.ShapeDtypeStruct(rollout.lengths.shape, np.int32)
    number = jax.ShapeDtypeStruct((), np.int32)
    slots = _placed(context, Slots(slot, slot))
    return Parts(slots, number, number, size, len(rollout.lengths) // micro_batch)


def scores(context: Context, rollout: Rollout, count: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Describe scores of the tokens of a rollout: `count` float32 numbers for each."""
    found = jax.ShapeDtypeStruct(rollout.tokens.shape, jnp.float32)
    return (_placed(context, found),) * count


def minibatch(run: PolicyStage, whole: Batch) -> Batch:
    """Describe the part of a batch that one update reads."""
    rows = next(minibatches(run, 0))
    if rows is None:
        return whole
    return _placed(run.context, jax.eval_shape(lambda batch: rows_of(batch, rows), whole))


def _many(arrays: Any, count: int) -> Any:
    """Describe arrays with `count` rows, of the given arrays' types."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), arrays)


def _placed(context: Context, shapes: Any) -> Any:
    """Give descriptions the sharding that `Context.place` gives arrays."""
    sharding = context.batch_sharding(*{x.shape[0] for x in jax.tree.leaves(shapes)})
    return jax.tree.map(lambda x: x.update(sharding=sharding), shapes)
