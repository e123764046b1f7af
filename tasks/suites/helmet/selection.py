"""Which rows of HELMET's data a task takes at one length."""

import dataclasses
from collections.abc import Callable, Iterator

from tasks.prompts.vocabulary import Tokenizer
from tasks.suites.helmet.prompts import Item


@dataclasses.dataclass(frozen=True)
class Selection:
    """The data of one task at one length.

    Attributes:
      dataset: the task's name in HELMET, such as "kilt_nq".
      length: tokens of the prompt and the answer together, 8192 to 131072.
      size: pairs, passages, documents or demonstrations in the context, or the tokens that a long
        text is cut to.
      samples: how many rows the benchmark takes; questions, where each has rows of several depths.
      long_only: leave out the texts that HELMET leaves out as too short for its longest prompt.
    """

    dataset: str
    data_dir: str
    length: int
    size: int
    samples: int
    tokenizer: Tokenizer
    long_only: bool = True


Reader = Callable[[Selection], Iterator[Item]]
