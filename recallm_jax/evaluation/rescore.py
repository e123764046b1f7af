"""Scoring saved responses again, from their texts, without a model."""

import json

from recallm_jax.evaluation.files import SUMMARY, read_rows, write_rows, write_summaries
from recallm_jax.evaluation.rows import row_scores
from recallm_jax.evaluation.shards import shard_folders
from recallm_jax.evaluation.summaries import Row, summarise
from recallm_jax.runtime.errors import UserError
from rl.rewards.composite import Completion
from rl.rewards.rule import RewardRule
from storage.files import Path, read_text
from tasks.scoring.answers import extract_answer


def rescore(folder: Path, rewards: RewardRule) -> list[Row]:
    """Score the saved rows of an evaluation again, from their texts, and write them back.

    Args:
      rewards: the rule of the new scores.

    Returns:
      The new summary of the tasks, modes and prompts that the old one counts: there may be more
      rows, which an evaluation of other lengths or of more examples has left.

    Raises:
      UserError: the folder holds no rows, or there is no reward for one; nothing is written.
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        joined = "join its shards with --merge first" if shard_folders(folder) else "evaluate first"
        raise UserError(f"{folder} holds no rows; {joined}, or name another --label")
    counts, summaries = _counted_prompts(folder), []
    # Nothing is written before everything is scored: a reward may fail for a single row.
    scored = {path: [_rescored(row, rewards) for row in read_rows(path)] for path in paths}
    for path, rows in scored.items():
        if not rows:
            continue
        write_rows(path, rows)
        if counts and path.stem not in counts:
            continue
        # In the order of the prompts; those that were not asked for come last (`write_in_order`).
        ids = set(list(dict.fromkeys(row["example_id"] for row in rows))[: counts.get(path.stem)])
        summaries.append(summarise([row for row in rows if row["example_id"] in ids]))
    write_summaries(folder, summaries)
    return summaries


def _counted_prompts(folder: Path) -> dict[str, int]:
    """Return the number of prompts of each file, by its stem, that the summary counts.

    Without a summary the result is {}.
    """
    try:
        rows = json.loads(read_text(folder / SUMMARY))
        return {f"{row['task']}.{row['mode']}": row["n"] for row in rows}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}


def _rescored(row: Row, rewards: RewardRule) -> Row:
    completion = Completion(
        text=row["completion"],
        num_tokens=row["completion_tokens"],
        spans=tuple(span["text"] for span in row["spans"]),
        num_starts=row["span_starts"],
        num_ends=row["span_ends"],
        finished=row["finished"],
    )
    scores = row_scores(row, completion, rewards)
    return row | {"answer": extract_answer(row["completion"])} | scores
