"""Fill a context to a target length without tokenising it again for every guess.

A byte-level tokenizer first splits a text by a regular expression and then merges within the
pieces. If a text is cut only where the tokenizer always splits, the tokens of the pieces are the
tokens of the text. Such places are after a single line break, and before a single space that
follows punctuation. Each distinct piece is tokenised once, so that a guess costs only its new
pieces, and the tokens of the final prompt cost nothing more.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable

from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.context import Draft, Example, Prompted
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer

_CUT = re.compile(r"(?<=\S\n)(?=\S)|(?<=[.,:;!?]) (?=\S)")
# Beginnings and ends of pieces, one of each kind that a splitting expression distinguishes.
_EDGES = (*'aZ7.:,")]}_-é中!?;', "'s")


def _cut(text: str) -> list[str]:
    """Return the pieces of a text, in order; a space belongs to the piece that it begins."""
    places = [0, *[match.start() for match in _CUT.finditer(text)], len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places) if a < b]


@functools.lru_cache(maxsize=8)
def splits_at_cuts(tokenizer: Tokenizer) -> bool:
    """Return whether this tokenizer splits wherever `_cut` does, by trying all kinds of edges."""
    joints = ("\n", "\n\n", ".\n", ",\n", ". ", ", ", ": ", "; ", "! ", "? ")
    texts = [f"x{a}{joint}{b}y" for a in _EDGES for joint in joints for b in _EDGES]
    pieces = [tokenizer.encode_each(_cut(text)) for text in texts]
    return [list(itertools.chain(*ids)) for ids in pieces] == tokenizer.encode_each(texts)


class TokenCounter:
    """Count the tokens of texts that have most of their pieces in common."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}

    def __call__(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return sum(map(len, self._of_pieces(text)))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, equal to the tokenizer's."""
        return list(itertools.chain.from_iterable(self._of_pieces(text)))

    def _of_pieces(self, text: str) -> list[list[int]]:
        if not splits_at_cuts(self._tokenizer):
            return [self._tokenizer.encode(text)]
        pieces, known = _cut(text), self._ids
        new = list(dict.fromkeys(piece for piece in pieces if piece not in known))
        if new:
            known.update(zip(new, self._tokenizer.encode_each(new), strict=True))
        return [known[piece] for piece in pieces]


def fit(
    draft: Draft, tokenizer: Tokenizer, target_length: int, settings: TaskSettings | None = None
) -> Prompted:
    """Return the example with the most fillers whose prompt fits, with that prompt and its tokens.

    Args:
      settings: give the system prompt, and whether a thought is opened; None for the draft's
        system prompt and a thought.

    Raises:
      TaskInputError: not even the prompt without fillers fits.
      UnfitRowError: the same, but another row of the data set may fit.
    """
    counter = TokenCounter(tokenizer)

    @functools.lru_cache(maxsize=2)
    def sized(number: int) -> tuple[Example, str]:
        example, thinking = draft.example(number), True
        if settings is not None:
            system, thinking = settings.system_prompt(example.system), settings.thinking
            example = dataclasses.replace(example, system=system)
        return example, tokenizer.chat_prompt(example.system, example.user, thinking=thinking)

    def count_tokens(number: int) -> int:
        return counter(sized(number)[1])

    if draft.from_row and (least := count_tokens(0)) > target_length:
        raise UnfitRowError(
            f"the row alone takes {least} tokens and target_length is {target_length}; raise it "
            "(config.data.target_length, or the length in config.evaluation.lengths)"
        )
    example, prompt = sized(largest_fit(count_tokens, target_length, draft.most))
    return Prompted(example, prompt, counter.encode(prompt))


def largest_fit(count_tokens: Callable[[int], int], target_length: int, most: int) -> int:
    """Return the largest number of items whose prompt has at most `target_length` tokens.

    `count_tokens` is called for few numbers. It rises almost linearly, so each count gives the next
    guess, until a number fits and the next one does not.

    Args:
      most: the number of items that there are.

    Raises:
      TaskInputError: not even the prompt without fillers fits.
    """
    counts: dict[int, int] = {}

    def fits(number: int) -> bool:
        if number not in counts:
            counts[number] = count_tokens(number)
        return counts[number] <= target_length

    if not fits(0):
        raise TaskInputError(
            f"target_length {target_length} is too short: the question and its gold items alone "
            f"take {counts[0]} tokens; raise target_length"
        )
    low, high = 0, most + 1
    # A few items tell how long one is.
    number = min(32, most)
    while high - low > 1:
        if fits(number):
            low = number
        else:
            high = number
        # The two nearest counts give the slope from here on.
        near, far = sorted(counts, key=lambda known: abs(known - number))[:2]
        slope = (counts[far] - counts[near]) / (far - near)
        step = int((target_length - counts[number]) / max(slope, 1.0))
        step = step or (1 if fits(number) else -1)
        number = min(max(number + step, low + 1), high - 1)
    return low
