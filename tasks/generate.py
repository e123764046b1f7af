"""Records of the synthetic data sets, as pure functions of (settings, split, seed, index)."""

import dataclasses
from collections.abc import Callable

import numpy as np

from tasks import reasoning_retrieval, recall
from tasks.context import Example, generator, largest_fit
from tasks.demonstrations import check_demonstration, demonstration, gold_tokens
from tasks.errors import TaskInputError
from tasks.names import train_task, validation_task
from tasks.record import Record, span_flags
from tasks.vocabulary import Tokenizer

DATASETS = ("retrieval", "math_retrieval")
SPLITS = ("train", "validation")
MOST_PAIRS = 19_000


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """How the synthetic tasks are made.

    Attributes:
      target_length: tokens of the whole chat-formatted prompt, at most and as near as fits.
      value_length: letters and digits of a value.
      formats: layouts of the pairs, one drawn for each example.
      terms, operators: size of the sums and equations, and the signs of the sums.
      span_alignment: where spans may open and close ("character", "word", "token").
      min_recall_length, max_recall_length: tokens of a span that a demonstration may hold.
    """

    target_length: int
    value_length: int = 10
    formats: tuple[str, ...] = recall.FORMATS
    terms: tuple[int, int] = (3, 5)
    operators: str = "+-*/"
    span_alignment: str = "character"
    min_recall_length: int = 1
    max_recall_length: int = 128

    def __post_init__(self):
        for layout in self.formats:
            if layout not in recall.FORMATS:
                raise TaskInputError(
                    f"format {layout!r} is unknown; use any of {', '.join(recall.FORMATS)}"
                )
        if not self.formats:
            raise TaskInputError(f"formats is empty; name any of {', '.join(recall.FORMATS)}")
        if not 1 <= self.terms[0] <= self.terms[1]:
            raise TaskInputError(f"terms {self.terms} must be a range like (3, 5), from 1 up")
        if not self.operators or set(self.operators) - set(reasoning_retrieval.SIGNS):
            raise TaskInputError(f"operators {self.operators!r} must be drawn from '+-*/'")
        if self.value_length < 4:
            raise TaskInputError(
                f"value_length {self.value_length} is below 4: values would repeat; raise it"
            )


def record(
    dataset: str, tokenizer: Tokenizer, settings: TaskSettings, split: str, seed: int, index: int
) -> Record:
    """Return one example of a data set, tokenised, with its demonstration.

    The splits draw from disjoint streams of random numbers.

    Raises:
      TaskInputError: an unknown data set or split, or a target length that holds no example.
    """
    if dataset not in DATASETS:
        raise TaskInputError(f"dataset {dataset!r} is unknown; use one of {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise TaskInputError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    stream = 2 * seed + SPLITS.index(split)
    options = {"value_length": settings.value_length, "formats": settings.formats}
    if dataset == "retrieval":
        sized = recall.draw(stream, index, **options)
    else:
        sized = reasoning_retrieval.draw(
            stream, index, terms=settings.terms, operators=settings.operators, **options
        )
    example = _fitted(sized, tokenizer, settings.target_length)
    rng = generator(f"{dataset}/demonstration", stream, index)
    task = (
        train_task(dataset)
        if split == "train"
        else validation_task(dataset, settings.target_length)
    )
    name = f"{task}/{index}"
    return _tokenised(name, dataset, example, tokenizer, settings, rng)


def _fitted(sized: Callable[[int], Example], tokenizer: Tokenizer, target_length: int) -> Example:
    def count_tokens(number: int) -> int:
        example = sized(number)
        return len(tokenizer.encode(tokenizer.chat_prompt(example.system, example.user)))

    # A pair takes about 12 tokens; a wrong guess costs one more count.
    number = largest_fit(count_tokens, target_length, target_length // 12, MOST_PAIRS)
    return sized(number)


def _tokenised(
    name: str,
    dataset: str,
    example: Example,
    tokenizer: Tokenizer,
    settings: TaskSettings,
    rng: np.random.Generator,
) -> Record:
    prompt = tokenizer.chat_prompt(example.system, example.user)
    shift = prompt.index(example.user)

    def in_prompt(ranges):
        return [(shift + low, shift + high) for low, high in ranges]

    inputs, offsets = tokenizer.encode_with_offsets(prompt)
    documents, gold = in_prompt(example.documents), in_prompt(example.gold)
    flags = span_flags(tokenizer, prompt, inputs, offsets, documents, settings.span_alignment)
    spans = [gold_tokens(offsets, flags[0], item) for item in gold]
    targets = np.asarray(demonstration(rng, example, tokenizer, inputs, spans), np.int32)
    check_demonstration(
        np.asarray(inputs, np.int32),
        flags,
        targets,
        tokenizer,
        example_id=name,
        min_recall_length=settings.min_recall_length,
        max_recall_length=settings.max_recall_length,
    )
    return Record(
        example_id=name,
        dataset=dataset,
        prompt=prompt,
        inputs=np.asarray(inputs, np.int32),
        offsets=offsets.astype(np.int32),
        copyable=flags[0],
        span_start=flags[1],
        span_end=flags[2],
        targets=targets,
        ground_truth={
            "answers": list(example.answers),
            "gold_documents": [prompt[low:high] for low, high in gold],
            "gold_ranges": [list(item) for item in gold],
            "math_answer": example.math_answer,
        },
    )
