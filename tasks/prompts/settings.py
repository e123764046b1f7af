"""The settings of tasks."""

import dataclasses

from tasks.errors import TaskInputError

FORMATS = ("lines", "json", "csv")
SIGNS = {"+": "+", "-": "-", "*": r"\times", "/": r"\div"}


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """How examples are made.

    Attributes:
      target_length: the most tokens that a whole chat-formatted prompt may have; it is filled up.
      value_length: letters and digits of a value (retrieval, math_retrieval).
      formats: layouts of the pairs, one drawn for each example.
      terms, operators: size of the sums and equations, and the signs of the sums.
      data_dir: folder of the data sets that are not synthetic, local or gs:// (docs/tasks.md says
        which files each one needs); "" if there is none.
      corpus: file of passages for distractors; "" pools the passages of the data sets in data_dir.
      system: a system prompt in place of ours; "" for none at all, None for ours.
      thinking: whether prompts open a thought. Without it demonstrations answer at once.
      span_alignment: where spans may open and close ("character", "word", "token").
      min_recall_length, max_recall_length: tokens of a span that a demonstration may hold.
    """

    target_length: int
    value_length: int = 10
    formats: tuple[str, ...] = FORMATS
    terms: tuple[int, int] = (3, 5)
    operators: str = "+-*/"
    data_dir: str = ""
    corpus: str = ""
    system: str | None = None
    thinking: bool = True
    span_alignment: str = "character"
    min_recall_length: int = 1
    max_recall_length: int = 128

    def __post_init__(self):
        for layout in self.formats:
            if layout not in FORMATS:
                raise TaskInputError(
                    f"format {layout!r} is unknown; use any of {', '.join(FORMATS)}"
                )
        if not self.formats:
            raise TaskInputError(f"formats is empty; name any of {', '.join(FORMATS)}")
        if not 1 <= self.terms[0] <= self.terms[1]:
            raise TaskInputError(f"terms {self.terms} must be a range like (3, 5), from 1 up")
        if not self.operators or set(self.operators) - set(SIGNS):
            raise TaskInputError(f"operators {self.operators!r} must be drawn from '+-*/'")
        if self.value_length < 4:
            raise TaskInputError(
                f"value_length {self.value_length} is below 4: values would repeat; raise it"
            )

    def system_prompt(self, ours: str) -> str:
        """Return the system prompt of these settings: `ours`, or what takes its place."""
        return ours if self.system is None else self.system
