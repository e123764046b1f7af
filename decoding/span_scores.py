"""Log-probabilities of given responses under the span mask, for training.

The mask is the one of `span_copy.py`; only the amount of work differs. If only a few tokens can
follow a position inside a span, their logits alone are computed. After the end of a response no
logits are. All other positions take the logits of the whole vocabulary, a chunk at a time.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from decoding.copy_source import CopySource
from decoding.packing import Layout
from decoding.policy import Policy
from decoding.rollout import Rollout
from decoding.sampling import from_peak
from decoding.span_copy import (
    SpanRules,
    SpanState,
    advance,
    allowed_tokens,
    endings,
    initial_state,
    whole_source,
)
from decoding.token_bits import unpack

# Positions inside a span with at most this many allowed tokens don't take the whole vocabulary.
FEW = 8
# The kinds of positions, in the order in which they are scored. Padding is neither.
WHOLE, SOME, NONE = -2, -1, 0


@dataclasses.dataclass(frozen=True)
class Scoring:
    """The settings of scoring under the span mask, which are the sampler's; static.

    Attributes:
      budget: the most tokens of a response.
      temperature: the sampler's temperature, > 0.
      chunk: the number of positions of a row whose logits are computed at a time.
      parts: the number of parts that devices split the rows of a group into, if it divides them.
    """

    rules: SpanRules
    budget: int
    temperature: float
    chunk: int
    parts: int = 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenScores:
    """Per-token results of `score_tokens`; the entropy carries no gradient."""

    log_probs: Float[Array, "B G T"]
    entropy: Float[Array, "B G T"]


def hidden_states(policy: Policy, rollout: Rollout, layout: Layout) -> Float[Array, "B R P D"]:
    """Return the hidden states that predict the token at each position."""
    prompts = rollout.prompts
    tokens = layout.in_rows(rollout.tokens)
    return policy.score(prompts.tokens, prompts.lengths, tokens, layout.place)


def score_tokens(
    policy: Policy,
    hidden: Float[Array, "B R P D"],
    rollout: Rollout,
    scoring: Scoring,
    layout: Layout | None = None,
) -> TokenScores:
    """Score responses under the span mask: log softmax(mask(logits) / temperature) at each token.

    Peak memory, forward and backward, is a few times B * G * chunk * V floats, one copy of the
    hidden states, and some float32 copies of the output matrix if its gradient is taken. A logit
    that is NaN makes a score that is NaN: the sampler must go on, but training must not hide it.

    Args:
      hidden: the hidden states that predict the token at each position (`Policy.score`).
      rollout: the responses; scores are 0 after a response's end.
      layout: the tokens of the positions; None if each row is one response.

    Returns:
      Log-probabilities (-inf for a forbidden token) and entropies, in nats.
    """
    rules, responses = scoring.rules, rollout.tokens
    source = whole_source(rollout.prompts, rollout.index, responses, rules)
    states = _states(rollout, source, scoring)
    tokens, kind = responses, jnp.where(rollout.mask, _kind(states, source, rules), NONE)
    numbers = jnp.arange(responses.shape[1])[None, :, None]
    if layout is None:
        numbers = jnp.broadcast_to(numbers, responses.shape)
    else:
        tokens, kind, states = jax.tree.map(layout.in_rows, (tokens, kind, states))
        kind = jnp.where(layout.real, kind, NONE)
        numbers = layout.response
    num_prompts, num_rows, length, _ = hidden.shape
    parts = scoring.parts if num_rows % scoring.parts == 0 else 1
    num_rows = num_rows * length // parts
    size = min(scoring.chunk * responses.shape[1] // parts, num_rows)
    num_chunks = -(-num_rows // size)

    def rows(field):
        return field.reshape(num_prompts, parts, num_rows, *field.shape[3:])

    kind, states = rows(kind), jax.tree.map(rows, states)
    # Positions of one kind are put side by side, so that whole chunks are spared the vocabulary.
    order = jnp.argsort(kind, axis=2, stable=True)
    place = jnp.argsort(order, axis=2, stable=True)

    def chunked(field):
        field = _permuted(field, order, place)
        padding = [(0, 0), (0, 0), (0, num_chunks * size - num_rows)]
        field = jnp.pad(field, padding + [(0, 0)] * (field.ndim - 3))
        field = field.reshape(num_prompts, parts, num_chunks, size, *field.shape[3:])
        field = jnp.moveaxis(field, 2, 0)
        return field.reshape(num_chunks, num_prompts, parts * size, *field.shape[4:])

    @jax.checkpoint
    def score_chunk(unembedding, kind, group_rows, hidden, tokens, state):
        here_source = source.of_rows(group_rows)
        zeros = jnp.zeros(kind.shape, jnp.float32)
        scores = (zeros, zeros)
        for number, score in ((WHOLE, _score_whole), (SOME, _score_some)):
            here = kind == number
            found = lax.cond(
                here.any(),
                lambda score=score: score(unembedding, hidden, tokens, state, here_source, scoring),
                lambda: (zeros, zeros),
            )
            scores = jax.tree.map(
                lambda new, old, here=here: jnp.where(here, new, old), found, scores
            )
        return scores

    unembedding = policy.gathered(num_prompts, parts)

    def step(_, chunk_of):
        return None, score_chunk(unembedding, *chunk_of)

    inputs = jax.tree.map(chunked, (kind, rows(numbers), rows(hidden), rows(tokens), states))
    _, scores = lax.scan(step, None, inputs)

    def restored(field):
        field = jnp.moveaxis(field.reshape(num_chunks, num_prompts, parts, size), 0, 2)
        field = field.reshape(num_prompts, parts, -1)[:, :, :num_rows]
        field = _permuted(field, place, order).reshape(hidden.shape[:3])
        return field if layout is None else layout.of_responses(field)

    return TokenScores(*map(restored, scores))


def _states(rollout: Rollout, source: CopySource, scoring: Scoring) -> SpanState:
    """Return the states before the tokens of responses, [B, G, T]; zeros after the longest one.

    They are those of `trace`, in as many steps as the longest response has tokens.
    """
    tokens = jnp.moveaxis(rollout.tokens, -1, 0)
    state = initial_state(source, tokens.shape[2], scoring.budget)

    def step(number, carry):
        states, state = carry
        states = jax.tree.map(lambda every, one: every.at[number].set(one), states, state)
        return states, advance(state, tokens[number], source, scoring.rules)

    states = jax.tree.map(lambda x: jnp.zeros((tokens.shape[0], *x.shape), x.dtype), state)
    states, _ = lax.fori_loop(0, rollout.lengths.max(), step, (states, state))
    return jax.tree.map(lambda field: jnp.moveaxis(field, 0, 2), states)


@jax.custom_vjp
def _permuted(
    field: Shaped[Array, "B P R *rest"], order: Int[Array, "B P R"], place: Int[Array, "B P R"]
) -> Shaped[Array, "B P R *rest"]:
    """Return the rows of each part in an order, whose inverse `place` the gradient uses.

    The gradient of a gather is a scatter, for which devices would gather all rows.
    """
    del place
    return jax.vmap(jax.vmap(lambda of_part, places: of_part[places]))(field, order)


def _permuted_forward(field, order, place):
    return _permuted(field, order, place), (order, place)


def _permuted_backward(both, gradient):
    order, place = both
    if gradient.dtype == jax.dtypes.float0:
        return None, None, None
    return _permuted(gradient, place, order), None, None


_permuted.defvjp(_permuted_forward, _permuted_backward)


def _kind(states: SpanState, source: CopySource, rules: SpanRules) -> Int[Array, "B G T"]:
    """Return which positions need the whole vocabulary, and which need some tokens of it."""
    # The end token is one more.
    most = source.most_next_tokens(states.places) + 1
    return jnp.where(states.inside & (most <= FEW) & rules.constrained, SOME, WHOLE)


def _score_whole(unembedding, hidden, tokens, state, source, scoring):
    """Score positions [B, R] over the whole vocabulary."""
    logits = unembedding.unembed(hidden)
    allowed = unpack(
        allowed_tokens(state, source, scoring.rules, logits.shape[-1]), logits.shape[-1]
    )
    logits = from_peak(jnp.where(allowed, logits, -jnp.inf)) / scoring.temperature
    # A sum of one term, on whichever device holds it.
    is_token = jnp.arange(logits.shape[-1])[None, None] == tokens[..., None]
    chosen = jnp.where(is_token, logits, 0.0).sum(axis=-1)
    return _softmax_scores(logits, chosen)


def _score_some(unembedding, hidden, tokens, state, source, scoring):
    """Score positions [B, R] inside spans over the few tokens that are allowed there."""
    forced, closes = endings(state, source, scoring.rules)
    following, real = source.first_next_tokens(state.places, FEW - 1)
    end = jnp.full((*tokens.shape, 1), scoring.rules.end_token, jnp.int32)
    candidates = jnp.concatenate([following, end], axis=-1)
    allowed = jnp.concatenate([real & ~forced[..., None], closes[..., None]], axis=-1)
    logits = unembedding.unembed_at(hidden, candidates)
    logits = from_peak(jnp.where(allowed, logits, -jnp.inf)) / scoring.temperature
    is_token = allowed & (candidates == tokens[..., None])
    # A sum of one term, or of none if the token is not allowed.
    chosen = jnp.where(is_token, logits, 0.0).sum(axis=-1)
    chosen = jnp.where(is_token.any(axis=-1), chosen, -jnp.inf)
    return _softmax_scores(logits, chosen)


def _softmax_scores(logits, chosen):
    """Return the log-probability of the chosen logit, and the entropy, without its gradient."""
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    fixed = lax.stop_gradient(logits)
    log_probs = fixed - lax.stop_gradient(normaliser)[..., None]
    terms = jnp.where(log_probs > -jnp.inf, jnp.exp(log_probs) * log_probs, 0.0)
    return chosen - normaliser, -terms.sum(axis=-1)
