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
`trace` runs the machine over given responses, and `span_scores.py` scores them under the mask.
Sampler and trainer use the same functions, so that the policy trained is the policy that acted
(arXiv 2604.09494, section 4).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from decoding.arrays import AnyArray
from decoding.errors import DecodingInputError
from decoding.locus import Locus, descend, goes_on, may_close, next_tokens, root
from decoding.suffix_index import SuffixIndex
from decoding.token_bits import num_words, pack, single, unpack

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
    """Where each row stands before its next token. Outside a span its locus is unused."""

    inside: Bool[AnyArray, "B *rows"]
    # Where the span that is open may have come from.
    locus: Locus
    # Tokens that the row may still emit, the next one included.
    budget: Int[AnyArray, "B *rows"]


def initial_state(index: SuffixIndex, num_rows: int, budget: int) -> SpanState:
    """Return the state of [B, R] rows before their first token: prompts never open a span."""
    shape = (index.count.shape[0], num_rows)
    return SpanState(
        inside=jnp.zeros(shape, bool),
        locus=root(index, num_rows),
        budget=jnp.full(shape, budget, jnp.int32),
    )


def advance(
    state: SpanState, token: Int[Array, "B R"], index: SuffixIndex, rules: SpanRules
) -> SpanState:
    """Return the state after `token`. A token that is not allowed empties the locus."""
    opens = ~state.inside & (token == rules.start_token)
    closes = state.inside & (token == rules.end_token)
    copies = state.inside & ~closes

    def moved(_):
        copied = descend(index, state.locus, token)
        opened = root(index, token.shape[1])
        return jax.tree.map(
            lambda new, at_root, old: jnp.where(copies, new, jnp.where(opens, at_root, old)),
            copied,
            opened,
            state.locus,
        )

    locus = lax.cond((opens | copies).any(), moved, lambda _: state.locus, None)
    return SpanState(inside=opens | copies, locus=locus, budget=state.budget - 1)


def mask_logits(
    logits: Float[Array, "B R V"], state: SpanState, index: SuffixIndex, rules: SpanRules
) -> Float[Array, "B R V"]:
    """Set the logits of forbidden tokens to -inf and make those of allowed ones finite.

    At least one token of every row stays allowed, whatever the logits hold.
    """
    num_rows = logits.shape[-1]
    allowed = unpack(allowed_tokens(state, index, rules, num_rows), num_rows)
    finite = jnp.clip(jnp.nan_to_num(logits, nan=0.0), -LOGIT_BOUND, LOGIT_BOUND)
    return jnp.where(allowed, finite, -jnp.inf)


def allowed_tokens(
    state: SpanState, index: SuffixIndex, rules: SpanRules, num_rows: int
) -> UInt32[Array, "B R words"]:
    """Return the tokens below `num_rows` that each row may emit next, as packed bits."""
    used = np.arange(num_rows) < rules.vocab_size
    shape = (*state.inside.shape, num_words(num_rows))
    if not rules.constrained:
        return jnp.broadcast_to(pack(used), shape)
    room = state.budget >= rules.min_length + 2
    may_open = (room & (index.count > 0)[:, None])[..., None]
    end, start = (
        jnp.broadcast_to(single(token, num_rows), shape)
        for token in (rules.end_token, rules.start_token)
    )
    free = jnp.broadcast_to(pack(used), shape) & ~end
    free = jnp.where(may_open, free, free & ~start)

    def with_spans(_):
        forced, closes = endings(state, index, rules)
        words = next_tokens(index, state.locus, state.inside & ~forced)
        words = jnp.where(closes[..., None], words | end, words)
        return jnp.where(state.inside[..., None], words, free)

    return lax.cond(state.inside.any(), with_spans, lambda _: free, None)


def endings(
    state: SpanState, index: SuffixIndex, rules: SpanRules
) -> tuple[Bool[Array, "B R"], Bool[Array, "B R"]]:
    """Return where the end token is the only one allowed in a span, and where it is allowed."""
    locus = state.locus
    forced = ~goes_on(index, locus)
    forced |= (locus.depth >= rules.max_length) | (state.budget <= 1)
    return forced, forced | ((locus.depth >= rules.min_length) & may_close(index, locus))


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

    def step(state, token):
        return advance(state, token, index, rules), state

    first = initial_state(index, responses.shape[1], budget)
    _, states = lax.scan(step, first, jnp.moveaxis(responses, -1, 0))
    return jax.tree.map(lambda field: jnp.moveaxis(field, 0, -1), states)
