"""The type of a data set, which declares all that this project knows about it in one place."""

import dataclasses
import re
from collections.abc import Callable, Mapping

from tasks.errors import TaskInputError
from tasks.prompts.context import Draft
from tasks.prompts.settings import TaskSettings
from tasks.scoring.reward import RewardRow, Score
from tasks.sources.table import Source

# (settings, split, stream, index, attempt) -> the draft of one example, a function of these alone.
# The stream and the index seed its random numbers; the attempt counts the rows that did not fit.
MakeDraft = Callable[[TaskSettings, str, int, int, int], Draft]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One data set.

    Attributes:
      name: its name in the names of tasks, in configs (`data.mixture.<name>`) and in records.
      category: one of the paper's ten, or the user's own.
      draft: makes an example.
      score: scores an answer for the reward, in training and in evaluation.
      reward: its row of the reward's table.
      metrics: the scores that evaluations report as means in percent, the main one first. They
        are computed under `SETTINGS["eval"]`.
      exact_match: returns 1 if the answer is the reference, else 0; None: if `score` is full.
      source: the files of its rows; None if its examples are made up.
      has_context: whether its prompts have a text to recall from.

    Raises:
      TaskInputError: the name has characters other than letters, digits and underscores, or there
        are no metrics.
    """

    name: str
    category: str
    draft: MakeDraft
    score: Score
    reward: RewardRow
    metrics: Mapping[str, Score]
    exact_match: Score | None = None
    source: Source | None = None
    has_context: bool = True

    def __post_init__(self):
        if not re.fullmatch("[A-Za-z0-9_]+", self.name):
            raise TaskInputError(
                f"dataset {self.name!r} cannot stand in a config; use letters, digits and _"
            )
        if not self.metrics:
            raise TaskInputError(
                f"dataset {self.name!r} has metrics = {self.metrics!r}; give at least one score, "
                "the main one first"
            )
