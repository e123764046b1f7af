"""The lost-in-thought probe: ask for a value at once, after reasoning, and inside a recall span.

arXiv 2604.09494 observes that a model retrieves worse from its context after even a short
reasoning, although the reasoning ends in the right key. The examples are those of `retrieval`. The
reasoning is written here, so nothing has to be trained. The variants differ in the text that the
model is given before it goes on:

| variant | given | read |
|---|---|---|
| direct | an empty thought, `</think>`, `Answer: The value of key K is` | the answer |
| thought | a thought that ends in key K, then the same | the answer |
| recall | the thought, then a recall span begun with a copy of the pair to its value | the span |
| cued | the thought, `</think>`, `Answer:` and the same part of the pair, no span | the answer |
| recall_unaided | the thought, then a recall span opened and no more | the span |

`recall` and `cued` differ only in the span. In the span the constraint allows only the tokens of
the value and, where a character ends, the end of the span. The place is found for the model, so
`recall` is wrong only if the model ends the span too early. In `recall_unaided` the model must find
the place itself. If prompts open no thought (`data.thinking=False`), beginnings lack `</think>`,
and `direct` and `thought` end in `Answer:`, as the model learned to answer.
"""

import dataclasses
import functools
import importlib.resources
import json
import re
from collections.abc import Iterator, Sequence

import numpy as np

from tasks.errors import TaskInputError
from tasks.prompts.demonstrations import gold_tokens
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import END_THINK, Tokenizer
from tasks.scoring.answers import contains_value, extract_answer

DIRECT, THOUGHT, RECALL, CUED, UNAIDED = "direct", "thought", "recall", "cued", "recall_unaided"
VARIANTS = (DIRECT, THOUGHT, RECALL, CUED, UNAIDED)
# The variants whose value is read from the first recall span.
IN_SPAN = (RECALL, UNAIDED)

# The last _STRETCH tokens of a thought are fitted exactly, by a choice among _DRAWN drawn sentences
# and the fillers.
_STRETCH, _DRAWN = 80, 12
_PAIR = re.compile(r'^(?:Key |  ")?(-?\d+)(?::\n|": "|,)([0-9A-Za-z]+)', re.MULTILINE)
_WORD = re.compile(r"[0-9A-Za-z]+")


@dataclasses.dataclass(frozen=True)
class Probe:
    """One example with a thought of a given length, and the beginning of each variant.

    Attributes:
      record: the prompt followed by the thought, which may not be copied. The thought belongs to
        the response, but stands here because all variants share it.
      prompt: the prompt alone.
      prefixes: the tokens that follow the thought, by variant.
      cue: the text of the pair up to its value, with which `recall` and `cued` begin.
    """

    record: Record
    prompt: str
    thought: str
    prefixes: dict[str, list[int]]
    cue: str
    key: str
    value: str


def variants(reasoning_tokens: int) -> tuple[str, ...]:
    """Return the variants for thoughts of this length; `direct` is the one for length 0."""
    return tuple(name for name in VARIANTS if name != (THOUGHT if not reasoning_tokens else DIRECT))


def probe(
    record: Record,
    tokenizer: Tokenizer,
    rng: np.random.Generator,
    *,
    reasoning_tokens: int,
    max_recall_length: int,
    thinking: bool = True,
) -> Probe:
    """Return the probe of a `retrieval` record; it depends on the record and the generator alone.

    Args:
      thinking: whether the record's prompt opens a thought.

    Raises:
      TaskInputError: a thought of that length can't be written, or a span can't hold the pair.
    """
    (low, high), value = record.ground_truth["gold_ranges"][0], record.ground_truth["answers"][0]
    pairs = pairs_of(record)
    key = next(key for key, found in pairs if found == value)
    thought = ""
    if reasoning_tokens:
        others = [other for other, _ in pairs if other != key]
        values = [found for _, found in pairs]
        thought = write_thought(tokenizer, key, others, values, reasoning_tokens, rng)
    first, last = gold_tokens(record.offsets, record.copyable, (low, high))
    if last - first > max_recall_length:
        raise TaskInputError(
            f"the pair of {record.example_id} has {last - first} tokens, a recall span at most "
            f"{max_recall_length}; raise decoding.max_recall_length, or lower data.value_length"
        )
    before_value = record.offsets[first:last, 1] <= record.prompt.index(value, low)
    cue = record.inputs[first : first + int(before_value.sum())].tolist()
    answer = f"{END_THINK}\nAnswer:" if thinking else "Answer:"
    answer = f"\n{answer}" if thought else answer
    asked = f"{answer} The value of key {key} is" if thinking else answer
    prefixes = {
        RECALL: [tokenizer.start_recall_id, *cue],
        CUED: [*tokenizer.encode(f"{answer}\n"), *cue],
        UNAIDED: [tokenizer.start_recall_id],
        variants(reasoning_tokens)[0]: tokenizer.encode(asked),
    }
    return Probe(
        record=_followed_by(record, thought, tokenizer),
        prompt=record.prompt,
        thought=thought,
        prefixes={name: prefixes[name] for name in variants(reasoning_tokens)},
        cue=tokenizer.decode(cue),
        key=key,
        value=value,
    )


def pairs_of(record: Record) -> list[tuple[str, str]]:
    """Return the keys and values of a `retrieval` record's context, in order."""
    places = record.offsets[record.copyable]
    return _PAIR.findall(record.prompt[places[0, 0] : places[-1, 1]])


def _followed_by(record: Record, text: str, tokenizer: Tokenizer) -> Record:
    ids, offsets = tokenizer.encode_with_offsets(text)
    no = np.zeros(len(ids), bool)
    return dataclasses.replace(
        record,
        prompt=record.prompt + text,
        inputs=np.concatenate([record.inputs, np.asarray(ids, np.int32)]),
        offsets=np.concatenate(
            [record.offsets, offsets.reshape(-1, 2) + len(record.prompt)]
        ).astype(np.int32),
        copyable=np.concatenate([record.copyable, no]),
        span_start=np.concatenate([record.span_start, no]),
        span_end=np.concatenate([record.span_end, no]),
    )


def write_thought(
    tokenizer: Tokenizer,
    key: str,
    others: Sequence[str],
    values: Sequence[str],
    num_tokens: int,
    rng: np.random.Generator,
) -> str:
    """Return reasoning of exactly `num_tokens` tokens that ends in `key` and a full stop.

    Sentences are drawn until few tokens are left, and the rest is a choice of sentences whose
    tokens add up.

    Args:
      others: keys to consider and reject.
      values: texts that must not occur in the thought.

    Raises:
      TaskInputError: no thought of this length was found.
    """

    def clean(sentence: str) -> bool:
        return not any(value in sentence for value in values)

    beginnings = [
        text.format(key=key)
        for text in (*_shuffled(_wordings("openings"), rng), *_wordings("fillers"))
    ]
    closings = [text.format(key=key) for text in _shuffled(_wordings("closings"), rng)]
    for beginning in filter(clean, beginnings):
        for closing in filter(clean, closings):
            stream = filter(clean, _sentences(key, others, rng))
            text = _fitted(tokenizer, beginning, stream, closing, num_tokens, rng)
            if text is not None and clean(text):
                return text
    raise TaskInputError(
        f"no thought of exactly {num_tokens} tokens about key {key} can be written with this "
        "tokenizer; ask for more reasoning tokens"
    )


@functools.cache
def _wordings(kind: str) -> tuple[str, ...]:
    """Read the openings, rejections, remarks, fillers or closings of a thought."""
    file = importlib.resources.files("tasks.suites") / "lost_in_thought.json"
    return tuple(json.loads(file.read_text(encoding="utf-8"))[kind])


def _sentences(key: str, others: Sequence[str], rng: np.random.Generator) -> Iterator[str]:
    """Yield sentences without end: all wordings in a random order, then in another."""
    rejections = _wordings("rejections") if len(others) > 1 else ()
    while True:
        for text in _shuffled(_wordings("remarks") + rejections, rng):
            names = {}
            if "{other}" in text:
                first, second = rng.choice(len(others), 2, replace=False)
                names = {"other": others[first], "another": others[second]}
            yield text.format(key=key, **names)


def _fitted(
    tokenizer: Tokenizer,
    beginning: str,
    stream: Iterator[str],
    closing: str,
    num_tokens: int,
    rng: np.random.Generator,
) -> str | None:
    """Return a thought of exactly this many tokens; None if none was found."""

    def count(sentence: str) -> int:
        # A space belongs to the word that follows it.
        return len(tokenizer.encode(f" {sentence}"))

    parts = [beginning]
    rest = num_tokens - len(tokenizer.encode(beginning)) - count(closing)
    while rest > _STRETCH:
        parts.append(next(stream))
        rest -= count(parts[-1])
    pool = [next(stream) for _ in range(_DRAWN)] + _shuffled(_wordings("fillers"), rng)
    chosen = _subset([count(sentence) for sentence in pool], rest)
    if chosen is None:
        return None
    parts += [pool[place] for place in rng.permutation(chosen)] if chosen else []
    text = " ".join([*parts, closing])
    # Some tokenizers do not split before each space.
    return text if len(tokenizer.encode(text)) == num_tokens else None


def _subset(counts: Sequence[int], total: int) -> list[int] | None:
    """Return different places whose counts add up to the total; None if there are none."""
    ways: dict[int, list[int]] = {0: []}
    for place, count in enumerate(counts):
        for reached, way in list(ways.items()):
            if reached + count <= total:
                ways.setdefault(reached + count, [*way, place])
    return ways.get(total)


def _shuffled(texts: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [texts[place] for place in rng.permutation(len(texts))]


def read_value(variant: str, response: str, cue: str) -> str:
    """Return the text that counts as the value that a response gives.

    Args:
      response: the text of the first span for `recall` and `recall_unaided`, else the response
        after the thought.
      cue: see `Probe`. In variants that begin with it, only the first run of letters and digits
        after it is read, because the text after that was not asked for.
    """
    if variant == UNAIDED:
        return response
    if variant in (RECALL, CUED):
        found = _WORD.search(response.partition(cue)[2])
        return found[0] if found else ""
    return extract_answer(response)


def is_right(read: str, value: str) -> bool:
    """Return whether the text holds the value and no other (`contains_value`)."""
    return bool(contains_value(read, value))
