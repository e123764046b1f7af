"""What a reader of HELMET's data is asked for."""

import dataclasses
from collections.abc import Callable, Iterator

from tasks.prompts.vocabulary import Tokenizer
from tasks.suites.helmet.prompts import Item


@dataclasses.dataclass(frozen=True)
class Request:
    """One task at one length.

    Attributes:
      dataset: the task's name in HELMET, such as "kilt_nq".
      length: of the input and the answer, in tokens: 8192 … 131072.
      size: pairs, passages, documents or demonstrations in the context, or the tokens that a long
        text is cut to.
      samples: rows that the benchmark takes, or questions where each has rows of several depths.
      long_only: leave out texts that HELMET leaves out as too short for its longest input.
    """

    dataset: str
    data_dir: str
    length: int
    size: int
    samples: int
    tokenizer: Tokenizer
    long_only: bool = True


Reader = Callable[[Request], Iterator[Item]]
