"""Checks of every example of every data set, without the code that made it."""

import numpy as np
import pytest

from rl.rewards.composite import Completion, Reward, score
from tasks.datasets.registry import find
from tasks.prompts.context import Draft
from tasks.prompts.fitting import fit
from tasks.prompts.record import Record, from_json, to_json
from tasks.prompts.vocabulary import Tokenizer
from tasks.scoring.reward import SETTINGS
from tasks.scoring.truth import ground_truth


def check_record(example: Record, tokenizer: Tokenizer, target_length: int) -> None:
    """Tokens, offsets, copyable gold items, and a ground truth that survives JSON."""
    assert 0 < len(example.inputs) <= target_length
    assert tokenizer.encode(example.prompt) == example.inputs.tolist()
    for token, (low, high) in zip(example.inputs, example.offsets, strict=True):
        # A token that is a part of a character has the range of the whole.
        piece = tokenizer.token_bytes[token]
        assert piece in example.prompt[low:high].encode()
        assert len(example.prompt[low:high].encode()) - len(piece) < 4
    truth = example.ground_truth
    assert ground_truth(example.dataset, truth) is not None
    for (low, high), document in zip(truth["gold_ranges"], truth["gold_documents"], strict=True):
        assert example.prompt[low:high] == document
        inside = (example.offsets[:, 0] >= low) & (example.offsets[:, 1] <= high)
        assert inside.any()
        assert example.copyable[inside].all()
    for label, document in zip(
        truth.get("gold_labels", ()), truth["gold_documents"], strict=bool(truth.get("gold_labels"))
    ):
        assert label in document
    assert to_json(from_json(to_json(example))) == to_json(example)


def check_fit(draft: Draft, tokenizer: Tokenizer, target_length: int) -> int:
    """Return the number of fillers; counted anew, as many as fit and no more."""

    def tokens(number: int) -> int:
        example = draft.example(number)
        return len(tokenizer.encode(tokenizer.chat_prompt(example.system, example.user)))

    _, prompt, ids = fit(draft, tokenizer, target_length)
    assert ids == tokenizer.encode(prompt)
    low, high = 0, draft.most
    while low < high:
        middle = (low + high + 1) // 2
        if tokens(middle) <= target_length:
            low = middle
        else:
            high = middle - 1
    example = draft.example(low)
    expected = tokenizer.chat_prompt(example.system, example.user)
    assert prompt == expected, "not the largest number of items that fits"
    assert tokens(low) <= target_length
    assert low == draft.most or tokens(low + 1) > target_length
    return low


def demonstration_reward(example: Record, tokenizer: Tokenizer, settings: str = "train") -> Reward:
    """Return the reward of an example's demonstration."""
    tokens = example.targets.tolist()
    assert tokens[-1] == tokenizer.eos_id
    starts = [i for i, token in enumerate(tokens) if token == tokenizer.start_recall_id]
    ends = [i for i, token in enumerate(tokens) if token == tokenizer.end_recall_id]
    completion = Completion(
        text=tokenizer.decode(tokens[:-1]),
        num_tokens=len(tokens),
        spans=tuple(tokenizer.decode(tokens[a + 1 : b]) for a, b in zip(starts, ends, strict=True)),
        num_starts=len(starts),
        num_ends=len(ends),
        finished=True,
    )
    truth = ground_truth(example.dataset, example.ground_truth)
    assert truth is not None
    return score(completion, truth, SETTINGS[settings], find(truth.dataset))


def check_demonstration_is_right(example: Record, tokenizer: Tokenizer) -> None:
    """A demonstration of a synthetic data set earns the full reward."""
    assert demonstration_reward(example, tokenizer).total == pytest.approx(1.0, abs=1e-6)


def depths(records: list[Record]) -> np.ndarray:
    """Return where the first gold items stand in their prompts, from 0 to 1."""
    return np.array([r.ground_truth["gold_ranges"][0][0] / len(r.prompt) for r in records])
