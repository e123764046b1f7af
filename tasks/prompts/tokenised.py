"""From an example and its prompt to the record that training and evaluation read."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from storage.errors import naming
from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.context import Example, Prompted, Range
from tasks.prompts.demonstrations import check_demonstration, demonstration_tokens, direct_tokens
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.span_edges import span_flags
from tasks.prompts.vocabulary import Tokenizer
from tasks.scoring.truth import check_ground_truth


def refuse_added(text: str, tokenizer: Tokenizer) -> None:
    """Refuse a text in which the tokenizer reads a token of its own, such as the end of a turn."""
    if found := tokenizer.find_added(text):
        raise UnfitRowError(f"its text holds the token {found}")


def check_ranges(example: Example) -> None:
    """Refuse documents outside the user's text, and gold items outside the documents.

    Raises:
      TaskInputError: names the range.
    """
    documents, size = example.documents, len(example.user)
    _check_pairs("documents", documents)
    _check_pairs("gold", example.gold)
    for low, high in documents:
        if not 0 <= low <= high <= size:
            raise TaskInputError(
                f"documents has the range {(low, high)}, but the user's text has {size} "
                "characters; give ranges of characters of `user`"
            )
    for low, high in example.gold:
        if low >= high or not any(start <= low and high <= end for start, end in documents):
            raise TaskInputError(
                f"gold has the range {(low, high)}, which is empty or lies in none of the "
                "documents; give ranges of characters of `user`, each inside a document"
            )


def _check_pairs(name: str, ranges: Sequence[Range]) -> None:
    for pair in ranges:
        if not (
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and all(isinstance(place, Integral) for place in pair)
        ):
            raise TaskInputError(
                f"{name} has {pair!r}, which is no range; give pairs of characters, such as "
                "((0, 20),)"
            )


def tokenised(
    name: str,
    dataset: str,
    prompted: Prompted,
    tokenizer: Tokenizer,
    settings: TaskSettings,
    rng: np.random.Generator,
) -> Record:
    """Return the record of an example with its prompt.

    Args:
      rng: draws the demonstration's wording.

    Raises:
      TaskInputError: the answers, the documents or the gold items of the example are not as
        `Example` says.
      UnfitRowError: the demonstration holds a token of the tokenizer's own.
      DemonstrationError: see `check_demonstration`.
    """
    example, prompt = prompted.example, prompted.prompt
    with naming(name):
        check_ranges(example)
    shift = prompt.rindex(example.user)

    def in_prompt(ranges):
        return [(shift + int(low), shift + int(high)) for low, high in ranges]

    ids = prompted.ids
    if ids is None:
        ids = tokenizer.encode_quoting(prompt, (shift, shift + len(example.user)))
    ids, offsets = tokenizer.encode_with_offsets(prompt, ids)
    inputs = np.asarray(ids, np.int32)
    documents, gold = in_prompt(example.documents), in_prompt(example.gold)
    truth = {
        **example.truth,
        "gold_documents": [prompt[low:high] for low, high in gold],
        "gold_ranges": [list(item) for item in gold],
    }
    if example.question_id:
        truth["question_id"] = example.question_id
    with naming(name):
        check_ground_truth(truth)
    flags = span_flags(tokenizer, prompt, inputs, offsets, documents, settings.span_alignment)
    targets = np.zeros(0, np.int32)
    demonstration = None if example.demonstrate is None else example.demonstrate(rng)
    if demonstration is not None and not settings.thinking:
        refuse_added(demonstration.answer, tokenizer)
        targets = np.asarray(direct_tokens(demonstration, tokenizer), np.int32)
    elif demonstration is not None:
        pieces = [piece for piece in demonstration.thought if isinstance(piece, str)]
        refuse_added("\n".join([*pieces, demonstration.answer]), tokenizer)
        tokens = demonstration_tokens(
            demonstration,
            tokenizer,
            inputs,
            offsets,
            flags,
            shift=shift,
            max_recall_length=settings.max_recall_length,
        )
        targets = np.asarray(tokens, np.int32)
        check_demonstration(
            inputs,
            flags,
            targets,
            tokenizer,
            example_id=name,
            min_recall_length=settings.min_recall_length,
            max_recall_length=settings.max_recall_length,
        )
    return Record(
        example_id=name,
        dataset=dataset,
        prompt=prompt,
        inputs=inputs,
        offsets=offsets.astype(np.int32),
        copyable=flags[0],
        span_start=flags[1],
        span_end=flags[2],
        targets=targets,
        ground_truth=truth,
    )
