"""Records of all data sets, as pure functions of (settings, split, seed, index)."""

import collections
import logging

from tasks.datasets.registry import find
from tasks.errors import DemonstrationError, TaskInputError, UnfitRowError
from tasks.names import train_task, validation_task
from tasks.prompts.context import generator
from tasks.prompts.fitting import fit
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.tokenised import refuse_added, tokenised
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
            prompted = fit(draft, tokenizer, settings.target_length)
            refuse_added(prompted.example.user, tokenizer)
            rng = generator(f"{dataset}/demonstration", stream, index)
            return tokenised(name, dataset, prompted, tokenizer, settings, rng)
        except (UnfitRowError, DemonstrationError) as error:
            # A row may quote what no span may hold.
            if isinstance(error, DemonstrationError) and not draft.from_row:
                raise
            reason = error
            gave_way[dataset] += 1
            # Rows that don't fit are common where the target is short.
            logging.getLogger(__name__).info("%s: a row is left out: %s", name, reason)
    raise TaskInputError(f"{dataset}: no row of {MAX_ATTEMPTS} could be used; the last: {reason}")
