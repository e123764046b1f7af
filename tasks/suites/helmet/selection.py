"""Which rows of HELMET's data a task takes at one length, and what a row becomes."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tasks.prompts.vocabulary import Tokenizer


@dataclasses.dataclass(frozen=True)
class Selection:
    """The data of one task at one length.

    Attributes:
      dataset: the task's name in HELMET, such as "kilt_nq".
      length: tokens of the prompt and the answer together, 8192 to 131072.
      size: pairs, passages, documents or demonstrations in the context, or the tokens that a long
        text is cut to.
      samples: how many rows the benchmark takes; questions, where each has rows of several depths.
    """

    dataset: str
    data_dir: str
    length: int
    size: int
    samples: int
    tokenizer: Tokenizer


@dataclasses.dataclass(frozen=True)
class Item:
    """One row of the benchmark, before it is fitted to a length.

    Attributes:
      key: its name within the task, the same in every run.
      before, context, after: the user's part. Only `context` may be cut, and recalled.
      lead_in: the beginning of the answer, which the plain form ends in.
      truth: what its score is computed from.
      question_id: a name of the question, if other rows ask it too.
    """

    key: str
    before: str
    context: str
    after: str
    lead_in: str
    truth: Mapping[str, Any]
    question_id: str = ""


Reader = Callable[[Selection], Iterator[Item]]
