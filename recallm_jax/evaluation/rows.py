"""The rows of an evaluation: a response with its scores, and its spans beside their places."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from decoding.spans import CopiedSpan
from recallm_jax.evaluation.summaries import Row, suite_task
from recallm_jax.runtime.errors import UserError
from rl.batch import PromptText
from rl.rewards.composite import Completion
from rl.rewards.guarded import guarded
from rl.rewards.rule import Asked, RecalledSpan, RewardRule
from rl.rollout_text import RolloutText
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import THINK, Tokenizer
from tasks.scoring import answers
from tasks.scoring.truth import ground_truth


@dataclasses.dataclass(frozen=True)
class Answered:
    """A record with its responses, group `number` of a rollout."""

    record: Record
    text: PromptText
    read: RolloutText
    number: int


def response_rows(answered: Answered, tokenizer: Tokenizer, rewards: RewardRule) -> list[Row]:
    """Return a row for each response to a record."""
    record, text = answered.record, answered.text
    read, number = answered.read, answered.number
    tokens = read.tokens[number]
    rows = []
    for sample, completion in enumerate(read.completions[number]):
        spans = [
            _span_row(span, copied, tokens[sample], text, tokenizer)
            for span, copied in zip(read.spans[number][sample], completion.spans, strict=True)
        ]
        row = {
            "example_id": text.example_id,
            "dataset": record.dataset,
            "sample": sample,
            "prompt": text.prompt,
            "prompt_tokens": len(record.inputs),
            "completion": completion.text,
            "completion_tokens": completion.num_tokens,
            "finished": completion.finished,
            "span_starts": completion.num_starts,
            "span_ends": completion.num_ends,
            "answer": answers.extract_answer(completion.text),
            "ground_truth": record.ground_truth,
            "spans": spans,
        }
        rows.append(row | row_scores(row, completion, rewards))
    return rows


def row_scores(row: Row, completion: Completion, rewards: RewardRule) -> Row:
    """Return a suite's own scores, or the reward; empty if no right answer is known.

    Args:
      row: a row without its scores.

    Raises:
      UserError: there is no reward: it raises, hangs or leaves [0, 1], as a user's own may.
    """
    dataset, truth = row["dataset"], row["ground_truth"]
    if truth and (scores := suite_scores(dataset, row["prompt"], completion.text, truth)):
        return scores
    known = ground_truth(dataset, truth)
    if known is None:
        return {}
    spans = tuple(
        RecalledSpan(
            span["text"],
            span["closed"],
            tuple(tuple(place["chars"]) for place in span.get("occurrences", ())),
        )
        for span in row["spans"]
    )
    asked = Asked(row["example_id"], row["prompt"], known)
    found = guarded(functools.partial(rewards.reward, completion, asked, spans))
    if isinstance(found, str):
        # Unlike a step of training, a score can't do without a response.
        raise UserError(
            f"{row['example_id']}, response {row['sample']}: no reward ({found}); mend "
            "config.reward.function and give another --label, or score by another reward"
        )
    reward = dataclasses.asdict(found)
    return {
        "reward": reward.pop("total"),
        "exact_match": reward.pop("exact_match"),
        "components": reward | reward.pop("extra"),
    }


def suite_scores(dataset: str, prompt: str, response: str, truth: Mapping[str, Any]) -> Row | None:
    """Return the scores of a suite's response; None if the data set is not a task of a suite.

    The suite's main metric is the score, and the reward; its metrics are the components.
    """
    task = suite_task(dataset)
    if task is None:
        return None
    # To a prompt that opens no thought, a response without one is the answer from its first word.
    if task.thinks and not prompt.rstrip().endswith(THINK) and THINK not in response:
        response = answers.THINK_END + response
    metrics = task.score(response, truth)
    main = next(iter(metrics.values()))
    return {
        "reward": main,
        "exact_match": float(main == 1),
        "score": main,
        "components": metrics,
    }


def _span_row(
    span: CopiedSpan, copied: str, tokens: np.ndarray, text: PromptText, tokenizer: Tokenizer
) -> Row:
    """Locate a span in the response, and its occurrences in the prompt."""
    start = len(tokenizer.decode(tokens[: span.start].tolist()))
    places = [
        {
            "tokens": [first, last],
            "chars": [int(text.offsets[first, 0]), int(text.offsets[last - 1, 1])],
        }
        for first, last in span.occurrences
    ]
    # The texts are compared, not only the tokens: a forced end may cut a character in two. An
    # unconstrained model may quote the context in other tokens than the prompt's.
    sources = [text.prompt[slice(*place["chars"])] for place in places]
    sources += [
        _response_text(place, tokens, text, tokenizer) for place in span.response_occurrences
    ]
    verbatim = copied in sources if sources else any(copied in part for part in text.copyable)
    return {
        "text": copied,
        "closed": span.closed,
        "response_tokens": [span.start, span.end],
        "response_chars": [start, start + len(copied)],
        "verbatim": bool(copied) and verbatim,
        "count": span.count,
        "occurrences": places,
        "response_count": span.response_count,
        "response_occurrences": [list(place) for place in span.response_occurrences],
    }


def _response_text(
    place: tuple[int, int], tokens: np.ndarray, text: PromptText, tokenizer: Tokenizer
) -> str:
    """Return the text of a range of response tokens; one below 0 counts from the prompt's end."""
    first, last = place
    before = text.prompt[text.offsets[first, 0] :] if first < 0 else ""
    return before + tokenizer.decode(tokens[max(first, 0) : last].tolist())
