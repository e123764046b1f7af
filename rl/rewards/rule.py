"""How a run rewards a response: by the scorers of its data sets, or by a function of the user's."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from decoding.spans import CopiedSpan
from rl.batch import PromptText
from rl.rewards.composite import Completion, Reward, Scorer, score
from tasks.scoring.reward import RewardSettings
from tasks.scoring.truth import GroundTruth


@dataclasses.dataclass(frozen=True)
class RecalledSpan:
    """A recall span of a response, as a reward of the user's sees it.

    Attributes:
      text: what was copied, without the recall tokens.
      closed: whether its end token follows.
      places: the character ranges of the prompt that it is a copy of, the first ones; none for a
        span that was sampled without the constraint and is no copy.
    """

    text: str
    closed: bool
    places: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a response answers.

    Attributes:
      prompt: the whole chat-formatted text.
      truth: the right answer and the gold documents; its `dataset` is the data set's name.
    """

    example_id: str
    prompt: str
    truth: GroundTruth


# (response, its recall spans, what it answers) -> the reward in [0, 1]; or the components by name,
# of which "total" is the reward, and the others are shown beside it.
UserReward = Callable[[str, Sequence[RecalledSpan], Asked], float | Mapping[str, float]]
# The names of the usual components, which stay beside those of the user's.
USUAL = {field.name for field in dataclasses.fields(Reward)} - {"total"}


@dataclasses.dataclass(frozen=True)
class RewardRule:
    """The rule of a run's rewards, or of its evaluations'.

    Attributes:
      settings: what the scorers are computed under.
      scorer_of: returns the scorer of a data set by its name, or raises.
      function: a reward of the user's; it replaces the total, and the components stay.
    """

    settings: RewardSettings
    scorer_of: Callable[[str], Scorer]
    function: UserReward | None = None

    def reward(self, completion: Completion, asked: Asked, spans: Sequence[RecalledSpan]) -> Reward:
        """Return the reward of a response.

        Raises:
          ValueError: a component of the user's is not finite, or has the name of a usual one.
          Exception: whatever the user's function raises.
        """
        found = score(completion, asked.truth, self.settings, self.scorer_of(asked.truth.dataset))
        if self.function is None:
            return found
        given = self.function(completion.text, spans, asked)
        if not isinstance(given, Mapping):
            return dataclasses.replace(found, total=float(given))
        extra = {name: float(value) for name, value in given.items() if name != "total"}
        for name, value in extra.items():
            if name in USUAL:
                raise ValueError(f"its component {name!r} is one of the usual ones; rename it")
            if not math.isfinite(value):
                raise ValueError(f"its component {name!r} is {value}; give a finite number")
        return dataclasses.replace(found, total=float(given["total"]), extra=extra)


def recalled_spans(
    spans: Sequence[CopiedSpan], texts: Sequence[str], prompt: PromptText
) -> tuple[RecalledSpan, ...]:
    """Return the spans of a response with the characters of the prompt that they copy."""
    offsets = prompt.offsets
    return tuple(
        RecalledSpan(
            text,
            span.closed,
            tuple(
                (int(offsets[first, 0]), int(offsets[last - 1, 1]))
                for first, last in span.occurrences
            ),
        )
        for span, text in zip(spans, texts, strict=True)
    )
