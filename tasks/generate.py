"""Records of all data sets, as pure functions of (settings, split, seed, index)."""

import collections
import logging

import numpy as np

from tasks.datasets.registry import find
from tasks.errors import DemonstrationError, TaskInputError, UnfitRowError
from tasks.names import train_task, validation_task
from tasks.prompts.context import Example, generator
from tasks.prompts.demonstrations import check_demonstration, demonstration_tokens
from tasks.prompts.fitting import fit
from tasks.prompts.record import Record, span_flags
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer

SPLITS = ("train", "validation")
# Rows of a data set that are tried for one example before its settings are given up.
MAX_ATTEMPTS = 32
# How many rows of each data set have given way to others in this process.
gave_way: collections.Counter[str] = collections.Counter()


def record(
    dataset: str, tokenizer: Tokenizer, settings: TaskSettings, split: str, seed: int, index: int
) -> Record:
    """Return one example of a data set, tokenised, with its demonstration where there is one.

    The splits draw from disjoint streams of random numbers.

    Raises:
      TaskInputError: an unknown data set or split, a target length that holds no example, or a
        data set whose files are missing.
    """
    make_draft = find(dataset).draft
    if split not in SPLITS:
        raise TaskInputError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    stream = 2 * seed + SPLITS.index(split)
    task = (
        train_task(dataset)
        if split == "train"
        else validation_task(dataset, settings.target_length)
    )
    name = f"{task}/{index}"
    for attempt in range(MAX_ATTEMPTS):
        try:
            draft = make_draft(settings, split, stream, index, attempt)
            example, prompt, ids = fit(draft, tokenizer, settings.target_length)
            _refuse_added(example.user, tokenizer)
            rng = generator(f"{dataset}/demonstration", stream, index)
            return tokenised(name, dataset, example, prompt, tokenizer, settings, rng, ids=ids)
        except (UnfitRowError, DemonstrationError) as error:
            # A row may quote what no span may hold.
            if isinstance(error, DemonstrationError) and not draft.from_row:
                raise
            reason = error
            gave_way[dataset] += 1
            # Rows that don't fit are common where the target is short.
            logging.getLogger(__name__).info("%s: a row is left out: %s", name, reason)
    raise TaskInputError(f"{dataset}: no row of {MAX_ATTEMPTS} could be used; the last: {reason}")


def _refuse_added(text: str, tokenizer: Tokenizer) -> None:
    """Refuse a text in which the tokenizer reads a token of its own, such as the end of a turn."""
    if found := tokenizer.find_added(text):
        raise UnfitRowError(f"its text holds the token {found}")


def tokenised(
    name: str,
    dataset: str,
    example: Example,
    prompt: str,
    tokenizer: Tokenizer,
    settings: TaskSettings,
    rng: np.random.Generator,
    *,
    ids: list[int] | None = None,
) -> Record:
    """Return an example as the record of its prompt.

    Args:
      rng: draws the demonstration's wording.
      ids: the prompt's tokens, where they are known.
    """
    shift = prompt.index(example.user)

    def in_prompt(ranges):
        return [(shift + low, shift + high) for low, high in ranges]

    ids, offsets = tokenizer.encode_with_offsets(prompt, ids)
    inputs = np.asarray(ids, np.int32)
    documents, gold = in_prompt(example.documents), in_prompt(example.gold)
    flags = span_flags(tokenizer, prompt, inputs, offsets, documents, settings.span_alignment)
    targets = np.zeros(0, np.int32)
    if example.demonstrate is not None:
        demonstration = example.demonstrate(rng)
        pieces = [piece for piece in demonstration.thought if isinstance(piece, str)]
        _refuse_added("\n".join([*pieces, demonstration.answer]), tokenizer)
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
        ground_truth={
            **example.truth,
            "gold_documents": [prompt[low:high] for low, high in gold],
            "gold_ranges": [list(item) for item in gold],
        },
    )
