"""Evaluating a policy on validation tasks: one JSONL row a response, and a summary."""

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from ml_collections import ConfigDict

from decoding.policy import Policy
from decoding.prompts import Prompts
from decoding.sampling import Sampling
from decoding.span_copy import SpanRules
from decoding.spans import CopiedSpan
from recallm_jax import run_files
from recallm_jax.config_fields import FIELDS
from recallm_jax.errors import UserError
from recallm_jax.evaluation_tasks import evaluation_tasks
from recallm_jax.inputs import ground_truth
from recallm_jax.partitioning import for_rollout
from recallm_jax.responding import Answered, Mode, respond
from recallm_jax.run_config import MAY_CHANGE, TRAINING, keep_config
from recallm_jax.summaries import Row, overall_rows, summarise
from rl.batch import PromptText
from rl.rewards.categories import SETTINGS
from rl.rewards.composite import Completion, score
from rl.rollout import Rollout
from tasks import scoring, suites
from tasks.record import Record, token_edges
from tasks.vocabulary import Tokenizer

MODES = FIELDS["evaluation.modes"].choices
_TEXTS = ("example_id", "dataset", "task", "label", "mode", "prompt", "completion")
_NUMBERS = ("target_length", "completion_tokens", "exact_match", "reward")
# What is read of a row, and of its spans.
_FIELDS: run_files.Fields = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(_NUMBERS, run_files.NUMBER),
    "finished": bool,
    "span_starts": int,
    "span_ends": int,
    "ground_truth": dict,
    "spans": list,
}
_SPAN_FIELDS: run_files.Fields = {"text": str, "closed": bool, "verbatim": bool}


@runtime_checkable
class Progress(Protocol):
    """Yields items under a progress bar; see `metric_writer.progress`."""

    def __call__(
        self, items: Iterable[Answered], title: str, *, total: int, done: int
    ) -> Iterable[Answered]:
        """Show `done` of `total` before the first item."""
        ...


def span_rules(config: ConfigDict, tokenizer: Tokenizer, *, constrained: bool = True) -> SpanRules:
    """Return the rules of recall spans that a config asks for."""
    return SpanRules(
        start_token=tokenizer.start_recall_id,
        end_token=tokenizer.end_recall_id,
        vocab_size=tokenizer.size,
        barriers=tuple(sorted(tokenizer.special_ids)),
        min_length=config.decoding.min_recall_length,
        max_length=config.decoding.max_recall_length,
        constrained=constrained,
        copy_source=config.decoding.copy_source,
        paper_compatible=config.decoding.paper_compatible,
        edges=_edges(tokenizer, config),
    )


def _edges(tokenizer: Tokenizer, config: ConfigDict) -> bytes:
    if config.decoding.copy_source == "prompt":
        return b""
    return token_edges(tokenizer, config.decoding.span_alignment)


def evaluate(
    policy: Policy,
    tokenizer: Tokenizer,
    config: ConfigDict,
    *,
    label: str,
    made_by: str,
    folder: Path,
    place: Callable[[Prompts], Prompts],
    progress: Progress,
    log: Callable[[str], None],
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

    Returns:
      A summary row for each task and mode; also written to `summary.json`.

    Raises:
      UserError: the folder holds rows that another config or policy made.
    """
    remedy = "give the same config and checkpoint, or another --label"
    may_change = MAY_CHANGE + TRAINING
    keep_config(config, folder, may_change=may_change, remedy=remedy, policy=made_by)
    policy = for_rollout(policy)
    modes = [_mode(name, config, tokenizer) for name in config.evaluation.modes]
    summaries = []
    for task in evaluation_tasks(config, tokenizer):
        records = task.records()
        # Rows of a benchmark's files may be longer than its tokenizer said.
        width = max(task.length, *(len(record.inputs) for record in records))
        for mode in modes:
            names: Row = {"mode": mode.name, "label": label}
            names |= {"task": task.name, "target_length": task.length}
            title = f"{label}: {task.name} {mode.name}"
            path = folder / f"{task.name}.{mode.name}.jsonl"
            done = _keep_whole(path, samples=mode.group_size)
            missing = _missing(records, done)
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
            )
            bar = progress(
                answers,
                f"evaluate {title}",
                total=len(records),
                done=len(records) - len(missing),
            )
            done += _append_rows(path, iter(bar), names, tokenizer)
            summaries.append(summarise(_in_order(path, records, done)))
    _write_summaries(folder, summaries)
    return summaries


def _missing(records: Sequence[Record], rows: Sequence[Row]) -> list[Record]:
    known = {row["example_id"] for row in rows}
    return [record for record in records if record.example_id not in known]


def _append_rows(
    path: Path, answers: Iterator[Answered], names: Row, tokenizer: Tokenizer
) -> list[Row]:
    """Write the rows of each prompt as soon as they are there; return all of them."""
    written = []
    with open(path, "a", encoding="utf-8") as file:
        for one in answers:
            rows = response_rows(one.rollout, one.number, one.text, one.record, tokenizer)
            rows = [row | names for row in rows]
            file.write(_lines(rows))
            file.flush()
            written += rows
    return written


def _in_order(path: Path, records: Sequence[Record], rows: Sequence[Row]) -> list[Row]:
    """Write the rows in the order of their records, whoever was done first; return the records'.

    Rows of prompts that were not asked for come last.
    """
    numbers = {record.example_id: number for number, record in enumerate(records)}
    ordered = sorted(rows, key=lambda row: numbers.get(row["example_id"], len(numbers)))
    _write_rows(path, ordered)
    return [row for row in ordered if row["example_id"] in numbers]


def _say_under(title: str, log: Callable[[str], None], line: str) -> None:
    log(f"{title}: {line}")


def _write_summaries(folder: Path, summaries: list[Row]) -> None:
    run_files.write_whole(folder / "summary.json", json.dumps(summaries, indent=1))
    if overall := overall_rows(summaries):
        run_files.write_whole(folder / "suites.json", json.dumps(overall, indent=1))


def rescore(folder: Path) -> list[Row]:
    """Score the saved rows of an evaluation again, from their texts, and write them back.

    Returns:
      The new summary.

    Raises:
      UserError: the folder holds no rows.
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise UserError(f"{folder} holds no rows; evaluate first, or name another --label")
    summaries = []
    for path in paths:
        rows = [_rescored(row) for row in read_rows(path)]
        if not rows:
            continue
        _write_rows(path, rows)
        summaries.append(summarise(rows))
    _write_summaries(folder, summaries)
    return summaries


def _rescored(row: Row) -> Row:
    completion = Completion(
        text=row["completion"],
        num_tokens=row["completion_tokens"],
        spans=tuple(span["text"] for span in row["spans"]),
        num_starts=row["span_starts"],
        num_ends=row["span_ends"],
        finished=row["finished"],
    )
    scores = _scores(completion, row["dataset"], row["ground_truth"])
    return row | {"answer": scoring.extract_answer(row["completion"])} | scores


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, without a last line that an interruption cut short.

    Raises:
      UserError: another line is no whole row.
    """
    rows = []
    for number, row in enumerate(run_files.read_rows(path, _FIELDS), 1):
        try:
            for span in row["spans"]:
                run_files.check_fields(span, _SPAN_FIELDS)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} has a damaged span ({error}); delete that line, or the file"
            ) from None
        rows.append(row)
    return rows


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    run_files.write_whole(path, _lines(rows))


def _lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _keep_whole(path: Path, samples: int) -> list[Row]:
    """Drop from a file the responses of prompts that have not all of theirs; return the rest."""
    rows = read_rows(path)
    counts = collections.Counter(row["example_id"] for row in rows)
    whole = [row for row in rows if counts[row["example_id"]] == samples]
    if path.exists():
        _write_rows(path, whole)
    return whole


def sampling_of(mode: str, config: ConfigDict) -> tuple[Sampling, bool, int]:
    """Return a mode's sampling, whether spans are constrained, and responses a prompt."""
    if mode not in MODES:
        raise UserError(f"evaluation mode {mode!r} is unknown; use any of {', '.join(MODES)}")
    constraint, _, choice = mode.partition("-")
    if choice == "greedy":
        return Sampling(temperature=0.0), constraint == "constrained", 1
    sampling = Sampling(temperature=config.evaluation.temperature, top_p=config.evaluation.top_p)
    return sampling, constraint == "constrained", config.evaluation.samples


def _mode(name: str, config: ConfigDict, tokenizer: Tokenizer) -> Mode:
    sampling, constrained, group_size = sampling_of(name, config)
    return Mode(name, sampling, span_rules(config, tokenizer, constrained=constrained), group_size)


def response_rows(
    rollout: Rollout, number: int, text: PromptText, record: Record, tokenizer: Tokenizer
) -> list[Row]:
    """Return a row for each response of one prompt of a rollout."""
    tokens = jax.device_get(rollout.responses.tokens[number])
    rows = []
    for sample, completion in enumerate(rollout.completions[number]):
        spans = [
            _span_row(span, copied, tokens[sample], text, tokenizer)
            for span, copied in zip(rollout.spans[number][sample], completion.spans, strict=True)
        ]
        rows.append(
            {
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
                "answer": scoring.extract_answer(completion.text),
                "ground_truth": record.ground_truth,
                "spans": spans,
                **_scores(completion, record.dataset, record.ground_truth),
            }
        )
    return rows


def _scores(completion: Completion, dataset: str, truth: dict[str, Any]) -> Row:
    """Return a suite's own scores, or the reward; nothing where no right answer is known."""
    if truth and (scores := suite_scores(dataset, completion.text, truth)):
        return scores
    known = ground_truth(dataset, truth)
    if known is None:
        return {}
    reward = dataclasses.asdict(score(completion, known, SETTINGS["eval"]))
    return {
        "reward": reward.pop("total"),
        "exact_match": reward.pop("exact_match"),
        "components": reward,
    }


def suite_scores(dataset: str, response: str, truth: Mapping[str, Any]) -> Row | None:
    """Return what a row says of a suite's response; None where the data set is no suite's task.

    The suite's main metric is the score, and the reward; its metrics are the components.
    """
    task = suites.find_task(dataset)
    if task is None:
        return None
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
    """Return where a span stands in the response and where it comes from in the prompt."""
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
