"""A file of rows: answering the records that have no rows in it yet."""

import collections
import dataclasses
import json
import time
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.evaluation.files import lines
from recallm_jax.evaluation.respond import Asked, respond
from recallm_jax.evaluation.rows import Answered
from recallm_jax.evaluation.summaries import Row
from recallm_jax.policy.context import Context
from recallm_jax.runtime import processes
from storage.files import Path, appending
from tasks.prompts.record import Record


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The rows of some records, in a file of their own.

    Attributes:
      asked: the records, and how they are answered.
      rows_of: makes the rows of a record from its responses.
      work: the words before the title on the progress bar.
    """

    path: Path
    asked: Asked
    rows_of: Callable[[Answered], list[Row]]
    work: str = "evaluate"


def answer_missing(
    config: ConfigDict, context: Context, policy: Policy, sheet: Sheet, rows: Sequence[Row]
) -> list[Row]:
    """Answer the records that have no rows yet; write their rows as soon as they are there.

    Args:
      rows: the rows that are there, in the leading process.

    Returns:
      All rows; none if another process leads. The leading one says how fast they were made.
    """
    asked, start = sheet.asked, time.perf_counter()
    missing = _missing(context, asked, rows)
    answers = context.console.progress(
        respond(config, context, policy, dataclasses.replace(asked, records=missing)),
        f"{sheet.work} {asked.title}",
        total=len(asked.records),
        done=len(asked.records) - len(missing),
    )
    if not context.leads:
        collections.deque(answers, maxlen=0)
        return []
    written, tokens = list(rows), 0
    with appending(sheet.path) as add:
        for answered in answers:
            found = sheet.rows_of(answered)
            add(lines(found))
            written += found
            tokens += num_tokens(answered)
    if missing:
        speed = describe_speed(len(missing), tokens, time.perf_counter() - start)
        context.console.say(f"{asked.title}: {speed}")
    return written


def num_tokens(answered: Answered) -> int:
    """Return the tokens of a prompt and of all responses to it; the prompt is computed once."""
    responses = answered.read.completions[answered.number]
    return len(answered.record.inputs) + sum(response.num_tokens for response in responses)


def describe_speed(prompts: int, tokens: int, seconds: float) -> str:
    """Return a line on the speed at which prompts were answered.

    Args:
      tokens: the tokens of the prompts and of all responses.
    """
    return (
        f"{prompts} prompts in {seconds:.1f} s: {prompts / seconds:.3g} prompts and "
        f"{tokens / seconds:,.0f} tokens a second"
    )


def _missing(context: Context, asked: Asked, rows: Sequence[Row]) -> list[Record]:
    """Return, in every process, the records without a row of the leading one."""
    known = {row["example_id"] for row in rows}
    ids = [record.example_id for record in asked.records if record.example_id not in known]
    missing = set(json.loads(processes.text_of_leader(json.dumps(ids), context.mesh)))
    return [record for record in asked.records if record.example_id in missing]
