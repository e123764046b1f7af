"""Recall spans: the one definition of what may be decoded, for sampling and for training.

A response is free text with recall spans in it: the start token, a run of tokens copied verbatim
from the copyable part of the prompt, the end token. One state machine says at every position which
tokens are allowed:

* **Outside a span**: every token of the tokenizer but the end token. The start token only where
  the prompt has something to copy and the budget has room for it, the shortest span and the end.
* **Inside a span**, d tokens deep: the tokens that continue some match of those d tokens. The end
  token once d has reached `min_length` and the last token ends a character (or word: the prompt's
  `span_end` says so); and always where nothing else is possible, because no match goes on.
* **Forced end**: at `max_length`, or with one token of budget left, the end token alone.

Vocabulary rows past the tokenizer are never allowed. Tokens that are not copyable (chat and special
tokens among them) are barriers that no match crosses, so the end of sequence can't be sampled
inside a span, and nothing can leave one open.

Example, with a copyable context `a b c | a b d` (`|` a barrier), `min_length` 1:

    response so far      allowed next
    (nothing)            anything but END
    START                a b c d          (what may open a span)
    START a              b END            (two matches, both go on with b)
    START a b            c d END
    START a b c          END              (the barrier)
    START a b c END      anything but END

`advance` moves the state by one token, `mask_logits` forbids what the state does not allow,
`trace` runs the machine over given responses, and `log_probs` scores them under the mask. Sampler
and trainer use the same functions, so that the policy trained is the policy that acted
(arXiv 2604.09494, section 4).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from decoding.arrays import AnyArray
from decoding.errors import DecodingInputError
from decoding.policy import Policy
from decoding.suffix_index import BARRIER, SuffixIndex, narrow, tokens_at

# Entries of the suffix array whose next tokens are read at once while the mask is built.
WINDOW = 128
# Logits are clipped to this range, so that infinities and NaN can't unmask a forbidden token.
LOGIT_BOUND = 1e30


@dataclasses.dataclass(frozen=True)
class SpanRules:
    """What a recall span is; static, and the same for sampler, trainer and evaluation.

    Attributes:
      start_token, end_token: ids of the two recall tokens.
      vocab_size: the tokenizer's size; ids from it on are rows that no text uses.
      barriers: ids that are never copied: chat, control and recall tokens.
      min_length, max_length: bounds of the copied tokens, the two recall tokens not counted.
      constrained: False leaves the text inside spans to the model (for comparison); only
        the unused vocabulary rows stay forbidden.
    """

    start_token: int
    end_token: int
    vocab_size: int
    barriers: tuple[int, ...] = ()
    min_length: int = 1
    max_length: int = 128
    constrained: bool = True

    def __post_init__(self):
        if not 1 <= self.min_length <= self.max_length:
            raise DecodingInputError(
                f"min_recall_length {self.min_length} must lie between 1 and max_recall_length "
                f"{self.max_length}; set both so that it does"
            )
        for name in ("start_token", "end_token"):
            token = getattr(self, name)
            if not 0 <= token < self.vocab_size:
                raise DecodingInputError(
                    f"{name} {token} is no id of a tokenizer with {self.vocab_size} entries; "
                    "add the recall tokens to the tokenizer first"
                )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpanState:
    """Where each row stands before its next token. Outside a span the match fields are unused."""

    inside: Bool[AnyArray, "B *rows"]
    # The suffixes that match what the span has copied so far are entries [low, high).
    low: Int[AnyArray, "B *rows"]
    high: Int[AnyArray, "B *rows"]
    # Tokens copied since the span opened.
    depth: Int[AnyArray, "B *rows"]
    # Tokens that the row may still emit, the next one included.
    budget: Int[AnyArray, "B *rows"]


def initial_state(num_prompts: int, num_rows: int, budget: int) -> SpanState:
    """Return the state of [B, R] rows before their first token: prompts never open a span."""
    zeros = jnp.zeros((num_prompts, num_rows), jnp.int32)
    return SpanState(
        inside=zeros.astype(bool), low=zeros, high=zeros, depth=zeros, budget=zeros + budget
    )


def advance(
    state: SpanState, token: Int[Array, "B R"], index: SuffixIndex, rules: SpanRules
) -> SpanState:
    """Return the state after `token`. A token that is not allowed empties the interval."""
    opens = ~state.inside & (token == rules.start_token)
    closes = state.inside & (token == rules.end_token)
    copies = state.inside & ~closes

    def narrowed(_):
        return narrow(index, state.low, state.high, state.depth, token)

    low, high = lax.cond(copies.any(), narrowed, lambda _: (state.low, state.high), None)
    count = jnp.broadcast_to(index.count[:, None], token.shape)
    return SpanState(
        inside=opens | copies,
        low=jnp.where(opens, 0, jnp.where(copies, low, state.low)),
        high=jnp.where(opens, count, jnp.where(copies, high, state.high)),
        depth=jnp.where(copies, state.depth + 1, 0),
        budget=state.budget - 1,
    )


def mask_logits(
    logits: Float[Array, "B R V"], state: SpanState, index: SuffixIndex, rules: SpanRules
) -> Float[Array, "B R V"]:
    """Set the logits of forbidden tokens to -inf and make those of allowed ones finite.

    At least one token of every row stays allowed, whatever the logits hold.
    """
    tokens = jnp.arange(logits.shape[-1])[None, None]
    used = tokens < rules.vocab_size
    if not rules.constrained:
        return _forbid(logits, jnp.broadcast_to(used, logits.shape))

    room = state.budget >= rules.min_length + 2
    may_open = ~state.inside & room & (index.count > 0)[:, None]
    free = used & (tokens != rules.end_token)
    free = free & (may_open[..., None] | (tokens != rules.start_token))
    allowed = lax.cond(
        state.inside.any(),
        lambda _: jnp.where(
            state.inside[..., None], _allowed_inside(state, index, rules, logits.shape[-1]), free
        ),
        lambda _: jnp.broadcast_to(free, logits.shape),
        None,
    )
    return _forbid(logits, allowed)


def _forbid(logits: Float[Array, "B R V"], allowed: Bool[Array, "B R V"]) -> Float[Array, "B R V"]:
    finite = jnp.clip(jnp.nan_to_num(logits, nan=-LOGIT_BOUND), -LOGIT_BOUND, LOGIT_BOUND)
    return jnp.where(allowed, finite, -jnp.inf)


def _allowed_inside(
    state: SpanState, index: SuffixIndex, rules: SpanRules, num_rows: int
) -> Bool[Array, "B R V"]:
    """Return the allowed tokens of rows inside a span; rows outside come out arbitrary.

    The intervals are read in windows until the widest has been seen, so the work is in proportion
    to it and the result exact. The widest of all, that of a span just opened, is not read: the
    index knows which tokens open a span.
    """
    batch = jnp.arange(state.low.shape[0])[:, None, None]
    rows = jnp.arange(state.low.shape[1])[None, :, None]
    at_start = state.depth == 0
    forced = (state.depth >= rules.max_length) | (state.budget <= 1)
    reading = state.inside & ~at_start & ~forced
    high = jnp.where(reading, state.high, state.low)

    def unfinished(carry):
        return (carry[0] < high).any()

    def read(carry):
        cursor, allowed, closes = carry
        entries = cursor[..., None] + jnp.arange(WINDOW)[None, None]
        valid = entries < high[..., None]
        depths = jnp.broadcast_to(state.depth[..., None], entries.shape)
        token = tokens_at(index, entries, depths)
        allowed = allowed.at[batch, rows, jnp.where(valid & (token != BARRIER), token, num_rows)]
        allowed = allowed.set(True, mode="drop")
        closes |= (valid & _closes(index, entries, depths)).any(axis=-1)
        return cursor + WINDOW, allowed, closes

    opening = jnp.where((at_start & ~forced)[..., None], index.openers[:, None, :], False)
    _, allowed, closes = lax.while_loop(
        unfinished, read, (state.low, opening, jnp.zeros_like(state.inside))
    )
    closes = closes & (state.depth >= rules.min_length)
    closes |= forced | ~allowed.any(axis=-1)
    ends = jnp.arange(num_rows)[None, None] == rules.end_token
    return allowed | (closes[..., None] & ends)


def _closes(
    index: SuffixIndex, entries: Int[Array, "B R W"], depths: Int[Array, "B R W"]
) -> Bool[Array, "B R W"]:
    """Return whether a span that copied `depths` >= 1 tokens from these entries may close there."""
    size = index.text.shape[1]

    def one_prompt(span_end, suffixes, entry, depth):
        position = suffixes[jnp.clip(entry, 0, size - 1)] + depth - 1
        return span_end[jnp.clip(position, 0, size - 1)] & (position < size)

    return jax.vmap(one_prompt)(index.span_end, index.suffixes, entries, depths)


def trace(
    responses: Int[Array, "B G T"], index: SuffixIndex, rules: SpanRules, budget: int
) -> SpanState:
    """Run the machine over given responses.

    Args:
      responses: the tokens; what follows a response's end does not matter.
      budget: tokens that each row could emit when the response was sampled.

    Returns:
      The state before each token, with fields [B, G, T].
    """
    num_prompts, group_size, _ = responses.shape

    def step(state, token):
        return advance(state, token, index, rules), state

    first = initial_state(num_prompts, group_size, budget)
    _, states = lax.scan(step, first, jnp.moveaxis(responses, -1, 0))
    return jax.tree.map(lambda field: jnp.moveaxis(field, 0, -1), states)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenScores:
    """Per-token results of `log_probs`; the entropy carries no gradient."""

    log_probs: Float[Array, "B G T"]
    entropy: Float[Array, "B G T"]


def log_probs(
    policy: Policy,
    hidden: Float[Array, "B G T D"],
    responses: Int[Array, "B G T"],
    states: SpanState,
    index: SuffixIndex,
    rules: SpanRules,
    *,
    temperature: float,
    chunk: int,
) -> TokenScores:
    """Score responses under the span mask: log softmax(mask(logits) / temperature) at each token.

    The vocabulary is only ever unfolded for `chunk` positions of each row at a time, forward and
    backward: peak memory is a few times B * G * chunk * V floats.

    Args:
      hidden: the states that predict each token (`Policy.score`).
      states: the machine before each token (`trace`).
      temperature: that of the sampler, > 0.
      chunk: positions a step; the last chunk is padded.

    Returns:
      Log-probabilities (-inf for a forbidden token) and entropies, in nats.
    """
    length = responses.shape[-1]
    chunk = min(chunk, length)
    num_chunks = -(-length // chunk)
    group_size = responses.shape[1]

    def chunked(field):
        pad = [(0, 0)] * field.ndim
        pad[2] = (0, num_chunks * chunk - length)
        padded = jnp.pad(field, pad)
        shape = (*field.shape[:2], num_chunks, chunk, *field.shape[3:])
        return jnp.moveaxis(padded.reshape(shape), 2, 0)

    @jax.checkpoint
    def score_chunk(policy, hidden, tokens, state):
        def rows(field):
            return field.reshape(field.shape[0], group_size * chunk, *field.shape[3:])

        state = jax.tree.map(rows, state)
        logits = mask_logits(policy.unembed(rows(hidden)), state, index, rules) / temperature
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, rows(tokens)[..., None], axis=-1)[..., 0]
        probability = jnp.exp(lax.stop_gradient(logits - normaliser[..., None]))
        finite = jnp.where(probability > 0, lax.stop_gradient(logits), 0.0)
        entropy = lax.stop_gradient(normaliser) - (probability * finite).sum(axis=-1)
        return (
            (chosen - normaliser).reshape(tokens.shape),
            entropy.reshape(tokens.shape),
        )

    def step(_, chunk_of):
        return None, score_chunk(policy, *chunk_of)

    inputs = (chunked(hidden), chunked(responses), jax.tree.map(chunked, states))
    _, (scores, entropy) = lax.scan(step, None, inputs)

    def joined(field):
        field = jnp.moveaxis(field, 0, 2)
        return field.reshape(*field.shape[:2], num_chunks * chunk)[..., :length]

    return TokenScores(log_probs=joined(scores), entropy=joined(entropy))
