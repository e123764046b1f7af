"""Make the records of all data sets, as pure functions of (settings, split, seed, index)."""

import collections
import dataclasses
import logging

from tasks.datasets.registry import find
from tasks.errors import DemonstrationError, TaskInputError, UnfitRowError
from tasks.names import train_task, validation_task
from tasks.prompts.context import Draft, Example, generator
from tasks.prompts.fitting import fit
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.tokenised import refuse_added, tokenised
from tasks.prompts.vocabulary import Tokenizer

SPLITS = ("train", "validation")
# How many rows of a data set are tried for one example before the settings are refused.
MAX_ATTEMPTS = 32
# How many rows of each data set were left out for others in this process.
gave_way: collections.Counter[str] = collections.Counter()


def record(
    dataset: str, tokenizer: Tokenizer, settings: TaskSettings, split: str, seed: int, index: int
) -> Record:
    """Make the record of one example, with its demonstration if the data set has one.

    The splits draw from disjoint streams of random numbers.

    Raises:
      TaskInputError: the data set or split is unknown, no example fits into the target length, or
        the data set's files are missing.
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
            draft = _named(draft, settings, f"{stream}/{index}")
            prompted = fit(draft, tokenizer, settings.target_length, settings)
            refuse_added(prompted.example.user, tokenizer)
            rng = generator(f"{dataset}/demonstration", stream, index)
            return tokenised(name, dataset, prompted, tokenizer, settings, rng)
        except (UnfitRowError, DemonstrationError) as error:
            # A row's demonstration may quote a text that no span may hold; try another row.
            if isinstance(error, DemonstrationError) and not draft.from_row:
                raise
            reason = error
            gave_way[dataset] += 1
            # With a short target length many rows do not fit.
            logging.getLogger(__name__).info("%s: a row is left out: %s", name, reason)
    raise TaskInputError(f"{dataset}: no row of {MAX_ATTEMPTS} could be used; the last: {reason}")


def _named(draft: Draft, settings: TaskSettings, question_id: str) -> Draft:
    """Return the draft with a name for its question, if it has none.

    Args:
      question_id: the name of a made-up question, which is the same at every target length.
    """

    def example(num_fillers: int) -> Example:
        made = draft.example(num_fillers)
        return dataclasses.replace(
            made,
            question_id=made.question_id or question_id,
        )

    return dataclasses.replace(draft, example=example)
