"""Write demonstrations for the cold start from the gold items of an example."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from tasks.errors import DemonstrationError, TaskInputError
from tasks.prompts.context import Demonstration, Range
from tasks.prompts.vocabulary import END_RECALL, END_THINK, START_RECALL, Tokenizer

INTENTIONS = (
    "I need {target}.",
    "Let me recall {target}.",
    "I look up {target}.",
    "So I look for {target} in the context.",
)
CLOSINGS = (
    "The context gives it.",
    "That is the pair asked for.",
    "I found it in the context.",
    "This comes from the context.",
)


def gold_tokens(
    offsets: Int[np.ndarray, "S 2"],
    copyable: Bool[np.ndarray, " S"],
    gold: tuple[int, int],
) -> tuple[int, int]:
    """Return the range of copyable tokens that cover a character range.

    A token may reach past the range where the tokenizer merges its edge with a neighbour.
    """
    covers = copyable & (offsets[:, 1] > gold[0]) & (offsets[:, 0] < gold[1])
    places = np.flatnonzero(covers)
    if not len(places):
        raise TaskInputError("the gold item has no copyable token; let `documents` contain it")
    return int(places[0]), int(places[-1]) + 1


def recalled_in_turn(
    rng: np.random.Generator,
    recalled: Sequence[Range],
    *,
    beginnings: Sequence[str],
    links: Sequence[str],
) -> list[str | Range]:
    """Return a thought that recalls the items in turn, with a beginning and links between them.

    Args:
      recalled: characters of `Example.user`, in the order of their recall.
    """
    thought: list[str | Range] = [f"{beginnings[int(rng.integers(len(beginnings)))]}\n"]
    for number, item in enumerate(recalled):
        if number:
            thought.append(f"\n{links[int(rng.integers(len(links)))]}\n")
        thought.append(item)
    return thought


def lookup_demonstration(
    rng: np.random.Generator,
    *,
    working: str,
    target: str,
    recalled: tuple[Range, ...],
    answer: str,
) -> Demonstration:
    """Return the demonstration of a lookup: working, intention, recalled items, answer.

    Args:
      working: the steps that lead to the recalled item, "" for none.
      target: the item's name in words.
    """
    intention = INTENTIONS[rng.integers(len(INTENTIONS))].format(target=target)
    closing = CLOSINGS[rng.integers(len(CLOSINGS))]
    beginning = f"{working}. {intention}\n" if working else f"{intention}\n"
    return Demonstration((beginning, *recalled), closing, answer)


def demonstration_tokens(
    demonstration: Demonstration,
    tokenizer: Tokenizer,
    inputs: Int[np.ndarray, " S"],
    offsets: Int[np.ndarray, "S 2"],
    flags: tuple[Bool[np.ndarray, " S"], Bool[np.ndarray, " S"], Bool[np.ndarray, " S"]],
    *,
    shift: int,
    max_recall_length: int,
) -> list[int]:
    """Return the tokens of a response: thought, closing line, answer, end of turn.

    The spans are the prompt's own tokens, not encoded again, so that the span mask allows them.

    Args:
      shift: where the user's text begins in the prompt.
    """
    copyable = flags[0]
    kept = [gold_tokens(offsets, copyable, (shift + a, shift + b)) for a, b in demonstration.kept]
    tokens: list[int] = []
    for part in demonstration.thought:
        if isinstance(part, str):
            tokens += tokenizer.encode(part)
            continue
        first, last = gold_tokens(offsets, copyable, (shift + part[0], shift + part[1]))
        if last - first > max_recall_length:
            words = _begin_words(inputs, tokenizer)
            first, last = _cut(first, last, kept, flags, words, max_recall_length)
        span = inputs[first:last].tolist()
        tokens += [tokenizer.start_recall_id, *span, tokenizer.end_recall_id]
    tokens += tokenizer.encode(
        f"\n{END_THINK}\n{demonstration.closing}\nAnswer: {demonstration.answer}"
    )
    return [*tokens, tokenizer.eos_id]


def direct_tokens(demonstration: Demonstration, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a response that answers at once: answer, end of turn."""
    return [*tokenizer.encode(f"Answer: {demonstration.answer}"), tokenizer.eos_id]


def _cut(
    first: int,
    last: int,
    kept: Sequence[tuple[int, int]],
    flags: tuple[Bool[np.ndarray, " S"], Bool[np.ndarray, " S"], Bool[np.ndarray, " S"]],
    words: Bool[np.ndarray, " S"],
    most: int,
) -> tuple[int, int]:
    """Return a part of at most `most` tokens that a span may hold.

    It has the first kept range of these tokens in it, or else begins as early as it can. It begins
    and ends between words if it can. If there is no such part, return the range unchanged.

    Args:
      words: which tokens begin a word.
    """
    _, span_start, span_end = flags
    inside = (place for place in kept if first <= place[0] and place[1] <= last)
    low, high = next(inside, (first, first + 1))
    # The kept range stands in the middle of the part, as far as the range allows.
    start = max(first, min((low + high - most) // 2, last - most))
    starts = start + np.flatnonzero(span_start[start : low + 1])
    if not len(starts):
        return first, last
    start = int(next(iter(starts[words[starts]]), starts[0]))
    ends = high - 1 + np.flatnonzero(span_end[high - 1 : min(start + most, last)])
    if not len(ends):
        return first, last
    after = ends + 1
    whole = ends[(after >= len(words)) | words[np.minimum(after, len(words) - 1)]]
    return start, int(whole[-1] if len(whole) else ends[-1]) + 1


def _begin_words(inputs: Int[np.ndarray, " S"], tokenizer: Tokenizer) -> Bool[np.ndarray, " S"]:
    """Return which tokens begin a word: white space is their first byte, or stands before them."""
    pieces = [tokenizer.token_bytes[token] for token in inputs.tolist()]
    opens = np.array([piece[:1].isspace() for piece in pieces])
    closes = np.array([piece[-1:].isspace() for piece in pieces])
    return opens | np.append(True, closes[:-1])


def check_demonstration(
    inputs: Int[np.ndarray, " S"],
    flags: tuple[Bool[np.ndarray, " S"], Bool[np.ndarray, " S"], Bool[np.ndarray, " S"]],
    targets: Int[np.ndarray, " T"],
    tokenizer: Tokenizer,
    *,
    example_id: str,
    min_recall_length: int,
    max_recall_length: int,
) -> None:
    """Refuse a demonstration with a token that the span mask forbids.

    Raises:
      DemonstrationError: a span is not a copyable run, too short, too long, open, or nested.
    """
    copyable, span_start, span_end = flags

    def refuse(reason: str):
        raise DemonstrationError(
            f"demonstration of {example_id} can't be trained on: {reason}; recall spans must be "
            f"{START_RECALL}copied text{END_RECALL}"
        )

    def is_copy(span: list[int]) -> bool:
        size = len(span)
        starts = np.flatnonzero((inputs == span[0]) & span_start)
        return any(
            start + size <= len(inputs)
            and copyable[start : start + size].all()
            and span_end[start + size - 1]
            and inputs[start : start + size].tolist() == span
            for start in starts
        )

    span: list[int] | None = None
    for token in targets.tolist():
        if span is None:
            if token == tokenizer.end_recall_id:
                refuse("a span ends that never began")
            if token >= tokenizer.size:
                refuse(f"token {token} is past the tokenizer's {tokenizer.size} entries")
            span = [] if token == tokenizer.start_recall_id else None
        elif token != tokenizer.end_recall_id:
            span.append(token)
        else:
            if not min_recall_length <= len(span) <= max_recall_length:
                allowed = f"{min_recall_length} to {max_recall_length}"
                refuse(f"a span has {len(span)} tokens, allowed are {allowed}")
            if not is_copy(span):
                refuse(f"{tokenizer.decode(span)!r} is not in the copyable context")
            span = None
    if span is not None:
        refuse("a span is left open")
