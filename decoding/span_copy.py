"""Recall spans: the one definition of what may be decoded, for sampling and for training.

A response is free text with recall spans in it. A span is the start token, a run of tokens copied
verbatim from the copyable part of the context, and the end token. One state machine says at every
position which tokens are allowed:

* **Outside a span**: every token of the tokenizer except the end token. The start token is allowed
  only if there is something to copy, and if the budget has room for the shortest span with its end.
* **Inside a span** that has copied d tokens: the tokens that continue some match of these d tokens.
  The end token is allowed if d is at least `min_length` and the last token ends a character (or a
  word: the flags of `prompts.py` say so). It is always allowed if no match goes on.
* **Forced end**: at `max_length`, or with one token of budget left, only the end token.

Vocabulary rows past the tokenizer are never allowed. Tokens that are not copyable, such as chat and
special tokens, are barriers that no match crosses. So the end of sequence can't be sampled inside
a span, and nothing can leave a span open. A start token in a prompt is such a barrier: only
responses open spans.

Example, with a copyable context `a b c | a b d` (`|` a barrier), `min_length` 1:

    response so far      allowed next
    (nothing)            anything but END
    START                a b c d          (what may open a span)
    START a              b END            (two matches, both go on with b)
    START a b            c d END
    START a b c          END              (the barrier)
    START a b c END      anything but END

With `copy_source` "prompt+response" a span may also copy from the response, up to the span's start
token and except barriers. A match may run from the prompt's last tokens into the response:

    x d START            a b c d x        (x from the response)
    x d START x          d END
    x d START x d        END              (the span's own start token is a barrier)
    x d START d          x END            (from the prompt's last token into the response)
    x d START d x        d END

`paper_compatible` is the rule of the released code of arXiv 2604.09494 instead. The whole prompt
can be copied, special tokens and template included, from any token to any token. The end token is
allowed everywhere, so a span may be empty, and an end may stand without a start. The start token is
allowed wherever no span is open. A stop token or the budget may end a response inside a span. The
recall tokens stay barriers, and unused vocabulary rows stay forbidden.

`allowed_tokens` decides what a row may emit next, and `mask_logits` forbids the rest; `advance`
moves the state by one token; `trace` runs the machine over given responses, and `span_scores.py`
scores them under the mask. They ask a `CopySource` what may be copied (`copy_source.py`). Sampler
and trainer use the same functions, so that the policy trained is the policy that acted
(arXiv 2604.09494, section 4).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from decoding.arrays import AnyArray
from decoding.copy_source import CopySource, Places, PromptAndResponseSource, PromptSource
from decoding.errors import DecodingInputError
from decoding.prompts import Prompts
from decoding.response_text import BEGINS, TextRules, empty_text, whole_text
from decoding.suffix_index import SuffixIndex, build_index
from decoding.token_bits import num_words, pack, single, unpack

# Logits are clipped to this range, so that infinities and NaN can't unmask a forbidden token.
LOGIT_BOUND = 1e30
# Depths are kept in 16 bits.
MOST_LENGTH = 32_767


@dataclasses.dataclass(frozen=True)
class SpanRules:
    """The definition of a recall span; static, and the same for sampler, trainer and evaluation.

    Attributes:
      start_token, end_token: ids of the two recall tokens.
      vocab_size: the tokenizer's size; larger ids are rows of the output matrix that no text uses.
      barriers: ids that are never copied, such as chat and control tokens; the recall tokens are
        barriers without being named.
      min_length, max_length: bounds of the number of copied tokens, without the two recall tokens.
      constrained: False leaves the text inside spans to the model, for comparison; only the unused
        vocabulary rows stay forbidden.
      copy_source: "prompt", or "prompt+response" to copy from the response before the span too.
      paper_compatible: whether the rule of the paper's release holds instead.
      edges: for "prompt+response", one byte a vocabulary entry that says how the entry begins and
        ends (the bits of `response_text.py`), so that spans open and close in a response as they
        do in a prompt.
    """

    start_token: int
    end_token: int
    vocab_size: int
    barriers: tuple[int, ...] = ()
    min_length: int = 1
    max_length: int = 128
    constrained: bool = True
    copy_source: str = "prompt"
    paper_compatible: bool = False
    edges: bytes = b""

    def __post_init__(self):
        if self.copy_source not in ("prompt", "prompt+response"):
            raise DecodingInputError(
                f"copy_source {self.copy_source!r} is unknown; use 'prompt' or 'prompt+response'"
            )
        if self.copies_response and len(self.edges) < self.vocab_size:
            raise DecodingInputError(
                f"edges has {len(self.edges)} entries for {self.vocab_size} tokens; with "
                "copy_source 'prompt+response' give one a token"
            )
        if not 1 <= self.min_length <= self.max_length:
            raise DecodingInputError(
                f"min_recall_length {self.min_length} must lie between 1 and max_recall_length "
                f"{self.max_length}; set both so that it does"
            )
        if self.max_length > MOST_LENGTH:
            raise DecodingInputError(
                f"max_recall_length {self.max_length} is more than {MOST_LENGTH}; lower it"
            )
        for name in ("start_token", "end_token"):
            token = getattr(self, name)
            if not 0 <= token < self.vocab_size:
                raise DecodingInputError(
                    f"{name} {token} is not an id of a tokenizer with {self.vocab_size} entries; "
                    "add the recall tokens to the tokenizer first"
                )
        if self.start_token == self.end_token:
            raise DecodingInputError(
                f"start_token and end_token are both {self.start_token}; give two tokens"
            )

    @property
    def copies_response(self) -> bool:
        """Whether spans may copy from the response."""
        return self.copy_source == "prompt+response"

    @property
    def all_barriers(self) -> tuple[int, ...]:
        """The ids that a span can't hold, in order."""
        others = () if self.paper_compatible else self.barriers
        return tuple(sorted({*others, self.start_token, self.end_token}))

    @property
    def text_rules(self) -> TextRules:
        """The rules by which spans copy from responses."""
        return TextRules(
            tail=self.max_length,
            vocab_size=self.vocab_size,
            barriers=self.all_barriers,
            edges=bytes([BEGINS]) * len(self.edges) if self.paper_compatible else self.edges,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpanState:
    """The state of each row before its next token."""

    inside: Bool[AnyArray, "*rows"]
    # All places that the open span may have been copied from; meaningless outside a span.
    places: Places
    # Tokens that the row may still emit, the next one included.
    budget: Int[AnyArray, "*rows"]


def _copyable(prompts: Prompts, rules: SpanRules) -> Prompts:
    if not rules.paper_compatible:
        return prompts
    everywhere = jnp.ones_like(prompts.copyable)
    return dataclasses.replace(
        prompts, copyable=everywhere, span_start=everywhere, span_end=everywhere
    )


def index_prompts(prompts: Prompts, rules: SpanRules, num_rows: int) -> SuffixIndex:
    """Index the copyable parts of prompts; `num_rows` is V."""
    prompts = _copyable(prompts, rules)
    known = (prompts.tokens >= 0) & (prompts.tokens < min(rules.vocab_size, num_rows))
    return build_index(
        dataclasses.replace(prompts, copyable=prompts.copyable & known),
        num_rows=num_rows,
        max_length=rules.max_length,
        barriers=rules.all_barriers,
    )


def start_source(
    prompts: Prompts, index: SuffixIndex, group_size: int, capacity: int, rules: SpanRules
) -> CopySource:
    """Return the source before the first token of responses of at most `capacity` tokens."""
    if not rules.copies_response:
        return PromptSource(index)
    prompts = _copyable(prompts, rules)
    text = empty_text(prompts, index, group_size, capacity, tail=rules.max_length)
    return PromptAndResponseSource(PromptSource(index), text, rules.text_rules)


def whole_source(
    prompts: Prompts, index: SuffixIndex, responses: Int[Array, "B G T"], rules: SpanRules
) -> CopySource:
    """Return the source of given responses, in which a span copies only from before itself."""
    if not rules.copies_response:
        return PromptSource(index)
    text = whole_text(_copyable(prompts, rules), index, responses, rules.text_rules)
    return PromptAndResponseSource(PromptSource(index), text, rules.text_rules)


def initial_state(source: CopySource, num_rows: int, budget: int) -> SpanState:
    """Return the state of [B, R] rows before their first token. Prompts never open a span."""
    shape = (source.index.count.shape[0], num_rows)
    return SpanState(
        inside=jnp.zeros(shape, bool),
        places=source.first_places(num_rows),
        budget=jnp.full(shape, budget, jnp.int32),
    )


def advance(
    state: SpanState, token: Int[Array, "B R"], source: CopySource, rules: SpanRules
) -> SpanState:
    """Return the state after `token`. A token that is not allowed leaves nothing to copy."""
    opens = ~state.inside & (token == rules.start_token)
    closes = state.inside & (token == rules.end_token)
    copies = state.inside & ~closes
    places = source.move(state.places, token, opens, copies)
    return SpanState(opens | copies, places, state.budget - 1)


def mask_logits(
    logits: Float[Array, "B R V"], state: SpanState, source: CopySource, rules: SpanRules
) -> Float[Array, "B R V"]:
    """Set the logits of forbidden tokens to -inf and make those of allowed ones finite.

    At least one token of every row stays allowed, even if logits are infinite or NaN.
    """
    num_rows = logits.shape[-1]
    allowed = unpack(allowed_tokens(state, source, rules, num_rows), num_rows)
    finite = jnp.nan_to_num(logits.astype(jnp.float32), nan=0.0)
    finite = jnp.clip(finite, -LOGIT_BOUND, LOGIT_BOUND)
    return jnp.where(allowed, finite, -jnp.inf)


def allowed_tokens(
    state: SpanState, source: CopySource, rules: SpanRules, num_rows: int
) -> UInt32[Array, "B R words"]:
    """Return the tokens below `num_rows` that each row may emit next, as packed bits."""
    used = np.arange(num_rows) < rules.vocab_size
    shape = (*state.inside.shape, num_words(num_rows))
    if not rules.constrained:
        return jnp.broadcast_to(pack(used), shape)
    end, start = (
        jnp.broadcast_to(single(token, num_rows), shape)
        for token in (rules.end_token, rules.start_token)
    )
    free = jnp.broadcast_to(pack(used), shape)
    if not rules.paper_compatible:
        may_open = source.may_open(state.places) & (state.budget >= rules.min_length + 2)
        free = jnp.where(may_open[..., None], free & ~end, free & ~end & ~start)

    def with_spans(_):
        forced, closes = endings(state, source, rules)
        reading = state.inside & ~forced
        words = source.next_tokens(state.places, reading, num_rows)
        words = jnp.where(closes[..., None], words | end, words)
        return jnp.where(state.inside[..., None], words, free)

    return lax.cond(state.inside.any(), with_spans, lambda _: free, None)


def endings(
    state: SpanState, source: CopySource, rules: SpanRules
) -> tuple[Bool[Array, "B R"], Bool[Array, "B R"]]:
    """Return in which open spans only the end token is allowed, and in which it is allowed."""
    depth = source.locus(state.places).depth
    forced = ~source.goes_on(state.places) | (depth >= rules.max_length)
    if rules.paper_compatible:
        return forced, jnp.ones_like(forced)
    forced |= state.budget <= 1
    closes = source.may_close(state.places) & (depth >= rules.min_length)
    return forced, forced | closes


def trace(
    responses: Int[Array, "B G T"], source: CopySource, rules: SpanRules, budget: int
) -> SpanState:
    """Run the machine over given responses.

    Args:
      responses: the tokens; those after a response's end don't matter.
      source: the source of these responses (`whole_source`).
      budget: the number of tokens that each row could emit when the response was sampled.

    Returns:
      The state before each token, with fields [B, G, T].
    """

    def step(state, token):
        return advance(state, token, source, rules), state

    first = initial_state(source, responses.shape[1], budget)
    _, states = lax.scan(step, first, jnp.moveaxis(responses, -1, 0))
    return jax.tree.map(lambda field: jnp.moveaxis(field, 0, 2), states)
