"""Recall spans: the one definition of what may be decoded, for sampling and for training.

A response is free text with recall spans in it: the start token, a run of tokens copied verbatim
from the copyable part of the context, the end token. One state machine says at every position which
tokens are allowed:

* **Outside a span**: every token of the tokenizer but the end token. The start token only where
  there is something to copy and the budget has room for it, the shortest span and the end.
* **Inside a span**, d tokens deep: the tokens that continue some match of those d tokens. The end
  token once d has reached `min_length` and the last token ends a character (or word: the flags of
  `prompts.py` say so); and always where nothing else is possible, because no match goes on.
* **Forced end**: at `max_length`, or with one token of budget left, the end token alone.

Vocabulary rows past the tokenizer are never allowed. Tokens that are not copyable (chat and special
tokens among them) are barriers that no match crosses, so the end of sequence can't be sampled
inside a span, and nothing can leave one open. A start token in a prompt is such a barrier: only
responses open spans.

Example, with a copyable context `a b c | a b d` (`|` a barrier), `min_length` 1:

    response so far      allowed next
    (nothing)            anything but END
    START                a b c d          (what may open a span)
    START a              b END            (two matches, both go on with b)
    START a b            c d END
    START a b c          END              (the barrier)
    START a b c END      anything but END

With `copy_source` "prompt+response" what the response holds before the span's start token may be
copied as well, barriers excepted, and a match may run from the prompt's last tokens into it:

    x d START            a b c d x        (x from the response)
    x d START x          d END
    x d START x d        END              (the span's own start token is a barrier)
    x d START d          x END            (from the prompt's last token into the response)
    x d START d x        d END

`paper_compatible` is the release's rule (arXiv 2604.09494's code) instead: the whole prompt can be
copied, special tokens and template included, from and to any token; the end token is allowed
everywhere, so that a span may be empty and one may be closed that was never opened; the start token
is allowed wherever no span is open; and a stop token or the budget may end a response inside a
span. The recall tokens themselves stay barriers, and unused vocabulary rows forbidden.

`advance` moves the state by one token, `mask_logits` forbids what the state does not allow,
`trace` runs the machine over given responses, and `span_scores.py` scores them under the mask.
Sampler and trainer use the same functions, so that the policy trained is the policy that acted
(arXiv 2604.09494, section 4).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from decoding import response_text
from decoding.arrays import AnyArray
from decoding.errors import DecodingInputError
from decoding.locus import Locus, descend, goes_on, may_close, next_tokens, root
from decoding.prompts import Prompts
from decoding.response_text import Matches, ResponseText
from decoding.suffix_index import SuffixIndex, build_index
from decoding.token_bits import num_words, pack, single, unpack

# Logits are clipped to this range, so that infinities and NaN can't unmask a forbidden token.
LOGIT_BOUND = 1e30
# Depths are kept in 16 bits.
MOST_LENGTH = 32_767


@dataclasses.dataclass(frozen=True)
class SpanRules:
    """What a recall span is; static, and the same for sampler, trainer and evaluation.

    Attributes:
      start_token, end_token: ids of the two recall tokens.
      vocab_size: the tokenizer's size; ids from it on are rows that no text uses.
      barriers: ids that are never copied, beside the recall tokens: chat and control tokens.
      min_length, max_length: bounds of the copied tokens, the two recall tokens not counted.
      constrained: False leaves the text inside spans to the model (for comparison); only
        the unused vocabulary rows stay forbidden.
      copy_source: "prompt", or "prompt+response": the response before the span too.
      paper_compatible: the rule of the paper's release.
      edges: for "prompt+response", a byte a vocabulary entry that says how it begins and ends (the
        bits of `response_text.py`), so that spans open and close in a response as in a prompt.
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
                    f"{name} {token} is no id of a tokenizer with {self.vocab_size} entries; "
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
        """The ids that no span may hold."""
        others = () if self.paper_compatible else self.barriers
        return tuple(sorted({*others, self.start_token, self.end_token}))

    def text_options(self) -> dict[str, Any]:
        """Return what the windows of `response_text.py` need to know."""
        edges = np.frombuffer(self.edges, np.uint8)
        if self.paper_compatible:
            edges = np.full_like(edges, response_text.BEGINS)
        copyable = ~np.isin(np.arange(self.vocab_size), self.all_barriers)
        return {"tail": self.max_length, "edges": edges, "copyable": copyable}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CopySource:
    """All that spans may copy from: the prompts' index and, where rules say so, the responses."""

    index: SuffixIndex
    text: ResponseText | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpanState:
    """Where each row stands before its next token. Outside a span its places are unused."""

    inside: Bool[AnyArray, "*rows"]
    # Where in the prompt, and in the response, the span that is open may have come from.
    locus: Locus
    matches: Matches | None
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
    """Return the index of what spans may copy from prompts; `num_rows` is V."""
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
    """Return what may be copied before the first token of responses of at most `capacity`."""
    if not rules.copies_response:
        return CopySource(index)
    prompts = _copyable(prompts, rules)
    text = response_text.empty_text(prompts, index, group_size, capacity, tail=rules.max_length)
    return CopySource(index, text)


def whole_source(
    prompts: Prompts, index: SuffixIndex, responses: Int[Array, "B G T"], rules: SpanRules
) -> CopySource:
    """Return what may be copied, for given responses: each span from what stands before it."""
    if not rules.copies_response:
        return CopySource(index)
    prompts, options = _copyable(prompts, rules), rules.text_options()
    return CopySource(index, response_text.whole_text(prompts, index, responses, **options))


def extend_source(
    source: CopySource, state: SpanState, token: Int[Array, "B R"], rules: SpanRules
) -> CopySource:
    """Return the source with a token that the rows, in `state` before it, have emitted."""
    if source.text is None or state.matches is None:
        return source
    text = response_text.append(source.text, token, state.matches.position, **rules.text_options())
    return dataclasses.replace(source, text=text)


def initial_state(source: CopySource, num_rows: int, budget: int, rules: SpanRules) -> SpanState:
    """Return the state of [B, R] rows before their first token: prompts never open a span."""
    shape = (source.index.count.shape[0], num_rows)
    matches = None
    if source.text is not None:
        capacity = source.text.tokens.shape[-1] - rules.max_length
        matches = response_text.no_matches(shape, capacity, tail=rules.max_length)
    return SpanState(
        inside=jnp.zeros(shape, bool),
        locus=root(source.index, num_rows),
        matches=matches,
        budget=jnp.full(shape, budget, jnp.int32),
    )


def advance(
    state: SpanState, token: Int[Array, "B R"], source: CopySource, rules: SpanRules
) -> SpanState:
    """Return the state after `token`. A token that is not allowed leaves nothing to copy."""
    opens = ~state.inside & (token == rules.start_token)
    closes = state.inside & (token == rules.end_token)
    copies = state.inside & ~closes

    def moved(_):
        copied = descend(source.index, state.locus, token)
        opened = root(source.index, token.shape[1])
        return jax.tree.map(
            lambda new, at_root, old: jnp.where(copies, new, jnp.where(opens, at_root, old)),
            copied,
            opened,
            state.locus,
        )

    locus = lax.cond((opens | copies).any(), moved, lambda _: state.locus, None)
    matches = state.matches
    if matches is not None and source.text is not None:
        text = source.text
        matches = lax.cond(
            (opens | copies).any(),
            lambda matches: response_text.move(matches, text, token, opens, copies),
            response_text.stay,
            matches,
        )
    return SpanState(opens | copies, locus, matches, state.budget - 1)


def mask_logits(
    logits: Float[Array, "B R V"], state: SpanState, source: CopySource, rules: SpanRules
) -> Float[Array, "B R V"]:
    """Set the logits of forbidden tokens to -inf and make those of allowed ones finite.

    At least one token of every row stays allowed, whatever the logits hold.
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
        may_open = _may_open(state, source, rules)[..., None]
        free = jnp.where(may_open, free & ~end, free & ~end & ~start)

    def with_spans(_):
        forced, closes = endings(state, source, rules)
        reading = state.inside & ~forced
        words = next_tokens(source.index, state.locus, reading)
        if state.matches is not None and source.text is not None:
            words |= response_text.next_tokens(state.matches, source.text, reading, num_rows)
        words = jnp.where(closes[..., None], words | end, words)
        return jnp.where(state.inside[..., None], words, free)

    return lax.cond(state.inside.any(), with_spans, lambda _: free, None)


def _may_open(state: SpanState, source: CopySource, rules: SpanRules) -> Bool[Array, "B R"]:
    something = (source.index.count > 0)[:, None]
    if state.matches is not None and source.text is not None:
        matches, text = state.matches, source.text
        something = jnp.broadcast_to(something, state.inside.shape)
        # Where the prompt has something, the response need not be asked.
        something = lax.cond(
            something.all(),
            lambda: something,
            lambda: something | response_text.may_open(matches, text),
        )
    return jnp.asarray(something & (state.budget >= rules.min_length + 2))


def endings(
    state: SpanState, source: CopySource, rules: SpanRules
) -> tuple[Bool[Array, "B R"], Bool[Array, "B R"]]:
    """Return where the end token is the only one allowed in a span, and where it is allowed."""
    locus = state.locus
    going = goes_on(source.index, locus)
    closes = (locus.low < locus.high) & may_close(source.index, locus)
    if state.matches is not None and source.text is not None:
        going |= response_text.goes_on(state.matches, source.text)
        closes |= response_text.may_close(state.matches, source.text)
    forced = ~going | (locus.depth >= rules.max_length)
    if rules.paper_compatible:
        return forced, jnp.ones_like(forced)
    forced |= state.budget <= 1
    return forced, forced | ((locus.depth >= rules.min_length) & closes)


def trace(
    responses: Int[Array, "B G T"], source: CopySource, rules: SpanRules, budget: int
) -> SpanState:
    """Run the machine over given responses.

    Args:
      responses: the tokens; what follows a response's end does not matter.
      source: what they may copy from (`whole_source`).
      budget: tokens that each row could emit when the response was sampled.

    Returns:
      The state before each token, with fields [B, G, T].
    """

    def step(state, token):
        return advance(state, token, source, rules), state

    first = initial_state(source, responses.shape[1], budget, rules)
    _, states = lax.scan(step, first, jnp.moveaxis(responses, -1, 0))
    return jax.tree.map(_time_behind_rows, states)


def _time_behind_rows(field: Array) -> Array:
    return jnp.moveaxis(field, 0, 2)
