"""Prefill and the jitted decode loop over groups: B prompts, G continuations of each."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key

from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.sampling import Sampling, log_prob_of, sample
from decoding.span_copy import SpanRules, advance, initial_state, mask_logits
from decoding.suffix_index import SuffixIndex, build_index


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoded:
    """The sampled responses. `lengths` count the stop token where there is one."""

    responses: Int[Array, "B G T"]
    lengths: Int[Array, "B G"]
    # log softmax(masked logits / temperature) of each token; 0 past the length.
    log_probs: Float[Array, "B G T"]


@functools.partial(
    jax.jit,
    static_argnames=("rules", "sampling", "max_new_tokens", "stop_tokens"),
)
def decode(
    policy: Policy,
    prompts: Prompts,
    keys: Key[Array, "B G"],
    *,
    rules: SpanRules,
    sampling: Sampling,
    max_new_tokens: int,
    stop_tokens: tuple[int, ...],
    prefix: Int[Array, "B G P"] | None = None,
) -> tuple[Decoded, SuffixIndex]:
    """Sample G responses of at most `max_new_tokens` for each of B prompts.

    The prompt is prefilled once for its group. The loop ends when every row has emitted a stop
    token; the host is not asked meanwhile.

    Args:
      prefix: P tokens that every response begins with, counted in its budget. Their
        log-probabilities are given like those of sampled ones (-inf for a forbidden token).

    Returns:
      The responses, and the prompts' index (for span offsets and for the trainer).
    """
    num_prompts, group_size = keys.shape
    shape = (num_prompts, group_size)
    hidden, prompt_cache = policy.prefill(prompts.tokens, prompts.lengths)
    first_logits = policy.unembed(hidden)
    index = build_index(
        prompts,
        num_rows=first_logits.shape[-1],
        max_length=rules.max_length,
        barriers=rules.barriers,
    )

    def emit(step, logits, state, done):
        logits = mask_logits(logits, state, index, rules)
        step_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, step)))(keys)
        token, log_prob = sample(logits, step_keys, sampling)
        if prefix is not None:
            given = prefix[:, :, jnp.minimum(step, prefix.shape[2] - 1)]
            token = jnp.where(step < prefix.shape[2], given, token)
            log_prob = log_prob_of(logits, token, sampling)
        token = jnp.where(done, 0, token)
        stops = functools.reduce(jnp.logical_or, [token == stop for stop in stop_tokens])
        # A finished row leaves its span state alone, so that it can't keep the mask at work.
        moved = advance(state, token, index, rules)
        state = jax.tree.map(lambda new, old: jnp.where(done, old, new), moved, state)
        return token, jnp.where(done, 0.0, log_prob), state, done | stops

    def unfinished(carry):
        step, done = carry[0], carry[1]
        return (step < max_new_tokens) & ~done.all()

    def body(carry):
        step, done, state, logits, cache, responses, log_probs, lengths = carry
        lengths = lengths + ~done
        token, log_prob, state, done = emit(step, logits, state, done)
        responses = lax.dynamic_update_index_in_dim(responses, token, step, axis=2)
        log_probs = lax.dynamic_update_index_in_dim(log_probs, log_prob, step, axis=2)
        steps = jnp.full(num_prompts, step, jnp.int32)
        logits, cache = policy.decode(token, steps, cache)
        return step + 1, done, state, logits, cache, responses, log_probs, lengths

    logits = jnp.broadcast_to(first_logits[:, None], (*shape, first_logits.shape[-1]))
    _, _, _, _, _, responses, log_probs, lengths = lax.while_loop(
        unfinished,
        body,
        (
            jnp.int32(0),
            jnp.zeros(shape, bool),
            initial_state(index, group_size, max_new_tokens),
            logits,
            policy.start(prompt_cache, group_size, max_new_tokens),
            jnp.zeros((*shape, max_new_tokens), jnp.int32),
            jnp.zeros((*shape, max_new_tokens), jnp.float32),
            jnp.zeros(shape, jnp.int32),
        ),
    )
    return Decoded(responses=responses, lengths=lengths, log_probs=log_probs), index
