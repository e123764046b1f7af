"""The parts of a RULER prompt, and the benchmark's templates.

The templates must not change (NVIDIA/RULER, c3f5e3b): official rows and scores depend on them.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from tasks.prompts.context import Range, generator
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer

NIAH = (
    "Some special magic {kind}s are hidden within the following text. Make sure to memorize it. I "
    "will quiz you about the {kind}s afterwards.\n{context}\nWhat are all the special magic "
    "{kind}s for {query} mentioned in the provided text?"
)
NIAH_PREFIX = " The special magic {kind}s for {query} mentioned in the provided text are"
NIAH_ONE = (
    "A special magic {kind} is hidden within the following text. Make sure to memorize it. I "
    "will quiz you about the {kind} afterwards.\n{context}\nWhat is the special magic "
    "{kind} for {query} mentioned in the provided text?"
)
NIAH_ONE_PREFIX = " The special magic {kind} for {query} mentioned in the provided text is"
NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
VT = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    "{context}\nQuestion: Find all variables that are assigned the value {value} in the text above."
)
VT_PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {count} "
    "variables are assigned the value {value}, they are: "
)
CWE = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{context}\nQuestion: What are the 10 most common "
    "words in the above list?"
)
CWE_PREFIX = " Answer: The top 10 words that appear most often in the list are:"
FWE = (
    "Read the following coded text and track the frequency of each coded word. Find the three most "
    "frequently appeared coded words. {context}\nQuestion: Do not provide any explanation. Please "
    "ignore the dots '....'. What are the three most frequently appeared words in the above coded "
    "text?"
)
FWE_PREFIX = (
    " Answer: According to the coded text above, the three most frequently appeared words are:"
)
QA = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words.\n\nThe following are given documents.\n\n{context}\n\nAnswer the question "
    "based on the given documents. Only give me the answer and do not output any other words."
    "\n\nQuestion: {query}"
)
QA_PREFIX = " Answer:"


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One row before it is tokenised. Ranges are characters of `input`.

    Attributes:
      input, prefix: the benchmark's `input` and `answer_prefix`; the prompt is both, unchanged.
      context: the text that may be copied.
      gold: the items of the context that hold the answer, in the order of the question.
      outputs: the references: all right answers, or the forms of the one right answer.
      question_id: a name of the question, if other rows may ask it too.
    """

    input: str
    prefix: str
    context: Range
    gold: tuple[Range, ...]
    outputs: tuple[str, ...]
    question_id: str = ""


@dataclasses.dataclass(frozen=True)
class Sized:
    """A prompt whose context can hold any number of filler items up to `most`."""

    prompt: Callable[[int], Prompt]
    most: int


@dataclasses.dataclass(frozen=True)
class RowSpec:
    """Which row to make. All random numbers come from `rng`.

    Attributes:
      length: the target length; the tokens of the response count towards it.
      attempt: each further attempt takes another row of the data set.
    """

    task: str
    tokenizer: Tokenizer
    settings: TaskSettings
    length: int
    seed: int
    index: int
    attempt: int = 0

    def rng(self, purpose: str = "") -> np.random.Generator:
        """Return the random numbers for a purpose, equal at every length and every call."""
        return generator(f"ruler/{self.task}/{purpose}", self.seed, self.index)


def filled(
    template: str,
    prefix: str,
    context: str,
    gold: Sequence[Range],
    outputs: Sequence[str],
    before: str = "",
    **fields: object,
) -> Prompt:
    """Fill a template with its context and other fields.

    Args:
      gold: ranges of `context`.
      before: a worked example that comes before the template, "" for none.
    """
    head, tail = template.split("{context}")
    head = before + head.format(**fields)
    start = len(head)
    return Prompt(
        input=head + context + tail.format(**fields),
        prefix=prefix.format(**fields),
        context=(start, start + len(context)),
        gold=tuple((start + low, start + high) for low, high in gold),
        outputs=tuple(outputs),
    )
