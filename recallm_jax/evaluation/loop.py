"""Evaluating a policy on validation tasks: one JSONL row a response, and a summary."""

import collections
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from jax.sharding import Mesh
from ml_collections import ConfigDict

from decoding.policy import Policy
from recallm_jax.config.kept import MAY_CHANGE, TRAINING, check_kept, keep_config
from recallm_jax.evaluation.respond import Answered, respond
from recallm_jax.evaluation.rows import response_rows, row_scores
from recallm_jax.evaluation.shards import SHARDS, Shard, note_examples, shard_folders
from recallm_jax.evaluation.summaries import Row, overall_rows, summarise
from recallm_jax.evaluation.tasks import evaluation_tasks, task_names
from recallm_jax.policy.modes import decoding_mode, sampling_of
from recallm_jax.policy.partitioning import for_rollout
from recallm_jax.runtime import jsonl, processes
from recallm_jax.runtime.errors import UserError
from rl.rewards.composite import Completion
from storage.files import Path, appending, read_text, write_whole
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import Tokenizer
from tasks.scoring import answers as scoring

SUMMARY = "summary.json"
# How a folder's rows are held to their config.
HELD: dict[str, Any] = {
    "may_change": MAY_CHANGE + TRAINING,
    "remedy": "give the same config and checkpoint, or another --label",
}
_TEXTS = ("example_id", "dataset", "task", "label", "mode", "prompt", "completion")
_NUMBERS = ("target_length", "completion_tokens", "exact_match", "reward")
# What is read of a row, and of its spans.
_FIELDS: jsonl.Fields = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(_NUMBERS, jsonl.NUMBER),
    "finished": bool,
    "span_starts": int,
    "span_ends": int,
    "ground_truth": dict,
    "spans": list,
}
_SPAN_FIELDS: jsonl.Fields = {"text": str, "closed": bool, "verbatim": bool}


@runtime_checkable
class Progress(Protocol):
    """Yields items under a progress bar; see `Console.progress`."""

    def __call__(
        self, items: Iterable[Answered], title: str, *, total: int, done: int
    ) -> Iterable[Answered]:
        """Show `done` of `total` before the first item."""
        ...


def evaluate(
    policy: Policy,
    tokenizer: Tokenizer,
    config: ConfigDict,
    *,
    label: str,
    made_by: str,
    folder: Path,
    place: Callable[[Any], Any],
    progress: Progress,
    log: Callable[[str], None],
    mesh: Mesh | None = None,
    shard: Shard | None = None,
) -> list[Row]:
    """Evaluate every data set at every length in every mode of the config.

    Rows that the folder already holds are kept, so that an interrupted evaluation goes on. Those of
    a prompt are written as soon as all its responses are there; in the end they stand in the order
    of the records.

    Args:
      label: what the policy is called in the rows, such as "start" or "grpo".
      made_by: which policy this is, such as "grpo step 20"; a folder holds the rows of one.
      place: puts a batch of prompts on the devices.
      progress: shows how many prompts of each task and mode are done.
      log: takes a line for the console, such as how many programs were compiled.
      mesh: the policy's; where several processes share it, all evaluate together, and the leading
        one writes.
      shard: the part of the records that this process answers alone, into a folder of its own.

    Returns:
      A summary row for each task and mode; also written to `summary.json`. Nothing for a shard,
      nor where another process leads.

    Raises:
      UserError: the folder holds rows that another config or policy made, or a task is empty.
    """
    leads, kept_in = processes.leads(mesh), folder
    if shard is not None:
        kept_in = folder / SHARDS / shard.name
    if leads:
        for place_of_rows in (*shard_folders(folder), folder):
            check_kept(config, place_of_rows, **HELD, policy=made_by)
        keep_config(config, kept_in, **HELD, policy=made_by)
    policy = for_rollout(policy)
    modes = [decoding_mode(name, config, tokenizer) for name in config.evaluation.modes]
    summaries = []
    for task in evaluation_tasks(config, tokenizer):
        records = task.records()
        if not records:
            raise UserError(
                f"task {task.name} has no prompts; leave its length out of config.evaluation."
                "lengths, or its suite out of config.evaluation.suites"
            )
        asked = records if shard is None else shard.of(records)
        if shard is not None:
            note_examples(kept_in, task.name, records)
        # Rows of a benchmark's files may be longer than its tokenizer said.
        width = max(task.length, *(len(record.inputs) for record in records))
        for mode in modes:
            names: Row = {"mode": mode.name, "label": label}
            names |= {"task": task.name, "target_length": task.length}
            title = f"{label}: {task.name} {mode.name}"
            path = kept_in / f"{task.name}.{mode.name}.jsonl"
            done: list[Row] = []
            if leads:
                done = _keep_whole(path, samples=mode.group_size)
                done += rows_elsewhere(folder, path, samples=mode.group_size, known=done)
            missing = missing_records(asked, done, mesh)
            answers = respond(
                policy,
                tokenizer,
                config,
                missing,
                mode,
                length=width,
                max_new_tokens=task.max_new_tokens,
                place=place,
                log=functools.partial(_say_under, title, log),
                together=processes.several(mesh),
            )
            if not leads:
                collections.deque(answers, maxlen=0)
                continue
            bar = progress(
                answers,
                f"evaluate {title}",
                total=len(asked),
                done=len(asked) - len(missing),
            )
            done += _append_rows(path, iter(bar), names, tokenizer)
            if shard is None:
                ids = [record.example_id for record in records]
                summaries.append(summarise(write_in_order(path, ids, done)))
    if leads and shard is None:
        write_summaries(folder, summaries)
    return summaries


def missing_records(
    records: Sequence[Record], rows: Sequence[Row], mesh: Mesh | None
) -> list[Record]:
    """Return, in every process, the records without a row of the leading one."""
    known = {row["example_id"] for row in rows}
    ids = [record.example_id for record in records if record.example_id not in known]
    missing = set(json.loads(processes.text_of_leader(json.dumps(ids), mesh)))
    return [record for record in records if record.example_id in missing]


def rows_elsewhere(folder: Path, path: Path, *, samples: int, known: Sequence[Row]) -> list[Row]:
    """Return the rows of other prompts in the files of an evaluation and its shards like `path`.

    Args:
      samples: responses that a prompt must have there.
      known: rows of `path` itself.
    """
    seen, found = {row["example_id"] for row in known}, []
    for other in (folder / path.name, *(each / path.name for each in shard_folders(folder))):
        if other != path:
            rows = [
                row for row in _of_whole(read_rows(other), samples) if row["example_id"] not in seen
            ]
            seen |= {row["example_id"] for row in rows}
            found += rows
    return found


def _append_rows(
    path: Path, answers: Iterator[Answered], names: Row, tokenizer: Tokenizer
) -> list[Row]:
    """Write the rows of each prompt as soon as they are there; return all of them."""
    written = []
    with appending(path) as add:
        for one in answers:
            rows = response_rows(one.rollout, one.number, one.text, one.record, tokenizer)
            rows = [row | names for row in rows]
            add(_lines(rows))
            written += rows
    return written


def write_in_order(
    path: Path, ids: Sequence[str], rows: Sequence[Row], *, by: str = ""
) -> list[Row]:
    """Write the rows in the order of their example ids, whoever was done first; return these rows.

    Rows of prompts that were not asked for come last.
    """
    numbers = {example_id: number for number, example_id in enumerate(ids)}
    ordered = sorted(rows, key=lambda row: numbers.get(row["example_id"], len(numbers)))
    _write_rows(path, ordered, by=by)
    return [row for row in ordered if row["example_id"] in numbers]


def _say_under(title: str, log: Callable[[str], None], line: str) -> None:
    log(f"{title}: {line}")


def write_summaries(folder: Path, summaries: list[Row], *, by: str = "") -> None:
    """Write the summaries of an evaluation, and what they come to by suite."""
    write_whole(folder / SUMMARY, json.dumps(summaries, indent=1), by=by)
    if overall := overall_rows(summaries):
        write_whole(folder / "suites.json", json.dumps(overall, indent=1), by=by)


def complete_summaries(
    folder: Path, config: ConfigDict, made_by: str, mesh: Mesh | None = None
) -> list[Row] | None:
    """Return the summaries of an evaluation that has all its rows; None if there may be more.

    Raises:
      UserError: another config or policy made them.
    """
    rows = None
    if processes.leads(mesh):
        check_kept(config, folder, **HELD, policy=made_by)
        rows = _complete(folder, config)
    return json.loads(processes.text_of_leader(json.dumps(rows), mesh))


def _complete(folder: Path, config: ConfigDict) -> list[Row] | None:
    count = config.evaluation.num_examples
    try:
        rows = json.loads(read_text(folder / SUMMARY))
        found = {(row["task"], row["mode"]): (row["n"], row["samples"]) for row in rows}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    samples = {mode: sampling_of(mode, config)[2] for mode in config.evaluation.modes}
    if found != {
        (task, mode): (count, samples[mode]) for task in task_names(config) for mode in samples
    }:
        return None
    for task, mode in found:
        there = _of_whole(read_rows(folder / f"{task}.{mode}.jsonl"), samples[mode])
        if len({row["example_id"] for row in there}) < count:
            return None
    return rows


def rescore(folder: Path) -> list[Row]:
    """Score the saved rows of an evaluation again, from their texts, and write them back.

    Returns:
      The new summary, of the tasks, modes and prompts that the old one counts: there may be rows of
      more, which an evaluation of other lengths or of more examples has left.

    Raises:
      UserError: the folder holds no rows.
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        joined = "join its shards with --merge first" if shard_folders(folder) else "evaluate first"
        raise UserError(f"{folder} holds no rows; {joined}, or name another --label")
    counts, summaries = _counted_prompts(folder), []
    for path in paths:
        rows = [_rescored(row) for row in read_rows(path)]
        if not rows:
            continue
        _write_rows(path, rows)
        if counts and path.stem not in counts:
            continue
        # In the order of the prompts; those that were not asked for come last (`write_in_order`).
        ids = set(list(dict.fromkeys(row["example_id"] for row in rows))[: counts.get(path.stem)])
        summaries.append(summarise([row for row in rows if row["example_id"] in ids]))
    write_summaries(folder, summaries)
    return summaries


def _counted_prompts(folder: Path) -> dict[str, int]:
    """Return how many prompts of each file, by its stem, the summary counts; {} without one."""
    try:
        rows = json.loads(read_text(folder / SUMMARY))
        return {f"{row['task']}.{row['mode']}": row["n"] for row in rows}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}


def _rescored(row: Row) -> Row:
    completion = Completion(
        text=row["completion"],
        num_tokens=row["completion_tokens"],
        spans=tuple(span["text"] for span in row["spans"]),
        num_starts=row["span_starts"],
        num_ends=row["span_ends"],
        finished=row["finished"],
    )
    scores = row_scores(completion, row["dataset"], row["ground_truth"])
    return row | {"answer": scoring.extract_answer(row["completion"])} | scores


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, without a last line that an interruption cut short.

    Raises:
      UserError: another line is no whole row.
    """
    rows = []
    for number, row in enumerate(jsonl.read_rows(path, _FIELDS), 1):
        try:
            for span in row["spans"]:
                jsonl.check_fields(span, _SPAN_FIELDS)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} has a damaged span ({error}); delete that line, or the file"
            ) from None
        rows.append(row)
    return rows


def _write_rows(path: Path, rows: Iterable[Row], *, by: str = "") -> None:
    write_whole(path, _lines(rows), by=by)


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _keep_whole(path: Path, samples: int) -> list[Row]:
    """Drop from a file the responses of prompts that have not all of theirs; return the rest."""
    whole = _of_whole(read_rows(path), samples)
    if path.exists():
        _write_rows(path, whole)
    return whole


def _of_whole(rows: Sequence[Row], samples: int) -> list[Row]:
    counts = collections.Counter(row["example_id"] for row in rows)
    return [row for row in rows if counts[row["example_id"]] == samples]
