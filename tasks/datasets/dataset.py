"""The type of a data set: all that this project knows of one, declared in one place."""

import dataclasses
from collections.abc import Callable, Mapping

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
      name: stands in the names of its tasks, in configs (`data.mixture.<name>`) and in records.
      category: one of the paper's ten, or the user's own.
      draft: makes an example.
      score: the score of an answer, in the reward of training and of evaluation alike.
      reward: its row of the reward's table.
      metrics: the scores that evaluations report as means in percent, the main one first. They
        are computed under `SETTINGS["eval"]`.
      exact_match: 1 where the answer is the reference, else 0; None: where `score` is full.
      source: the files that its rows come from; None where it is made up.
      has_context: whether its prompts have a text to recall from.
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
