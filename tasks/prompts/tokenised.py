"""From an example and its prompt to the record that training and evaluation read."""

import numpy as np

from tasks.errors import UnfitRowError
from tasks.prompts.context import Prompted
from tasks.prompts.demonstrations import check_demonstration, demonstration_tokens
from tasks.prompts.record import Record, span_flags
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer


def refuse_added(text: str, tokenizer: Tokenizer) -> None:
    """Refuse a text in which the tokenizer reads a token of its own, such as the end of a turn."""
    if found := tokenizer.find_added(text):
        raise UnfitRowError(f"its text holds the token {found}")


def tokenised(
    name: str,
    dataset: str,
    prompted: Prompted,
    tokenizer: Tokenizer,
    settings: TaskSettings,
    rng: np.random.Generator,
) -> Record:
    """Return the record of an example with its prompt.

    Args:
      rng: draws the demonstration's wording.

    Raises:
      UnfitRowError: the demonstration holds a token of the tokenizer's own.
      DemonstrationError: see `check_demonstration`.
    """
    example, prompt = prompted.example, prompted.prompt
    shift = prompt.index(example.user)

    def in_prompt(ranges):
        return [(shift + low, shift + high) for low, high in ranges]

    ids, offsets = tokenizer.encode_with_offsets(prompt, prompted.ids)
    inputs = np.asarray(ids, np.int32)
    documents, gold = in_prompt(example.documents), in_prompt(example.gold)
    flags = span_flags(tokenizer, prompt, inputs, offsets, documents, settings.span_alignment)
    targets = np.zeros(0, np.int32)
    if example.demonstrate is not None:
        demonstration = example.demonstrate(rng)
        pieces = [piece for piece in demonstration.thought if isinstance(piece, str)]
        refuse_added("\n".join([*pieces, demonstration.answer]), tokenizer)
        tokens = demonstration_tokens(
            demonstration,
            tokenizer,
            inputs,
            offsets,
            flags,
            shift=shift,
            max_recall_length=settings.max_recall_length,
        )
        targets = np.asarray(tokens, np.int32)
        check_demonstration(
            inputs,
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
        inputs=inputs,
        offsets=offsets.astype(np.int32),
        copyable=flags[0],
        span_start=flags[1],
        span_end=flags[2],
        targets=targets,
        ground_truth={
            **example.truth,
            "gold_documents": [prompt[low:high] for low, high in gold],
            "gold_ranges": [list(item) for item in gold],
        },
    )
