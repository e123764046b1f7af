"""The lost-in-thought probe of a policy: one JSONL row a response, and accuracy by variant."""

import collections
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from decoding.decode_loop import SAMPLED, Limits, decode
from decoding.policy import Policy
from decoding.sampling import Sampling, row_keys
from recallm_jax.config.kept import MAY_CHANGE, TRAINING, keep_config
from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.data.records import task_settings
from recallm_jax.evaluation.loop import missing_records
from recallm_jax.evaluation.rows import response_rows
from recallm_jax.evaluation.statistics import wilson_interval
from recallm_jax.evaluation.summaries import Row, align
from recallm_jax.policy.modes import span_rules
from recallm_jax.policy.partitioning import for_rollout
from recallm_jax.runtime import jsonl, processes
from recallm_jax.runtime.errors import UserError
from rl.rollout import read_rollout
from storage.files import Path, appending, read_text, write_whole
from tasks import generate
from tasks.prompts.context import generator
from tasks.prompts.record import Record
from tasks.prompts.vocabulary import Tokenizer
from tasks.suites.lost_in_thought import (
    IN_SPAN,
    VARIANTS,
    Probe,
    is_right,
    probe,
    read_value,
    variants,
)

DATASET = "retrieval"
SUMMARY = "summary.json"
# What is read of a row, and of a summary's.
_FIELDS: jsonl.Fields = {
    **dict.fromkeys(("example_id", "label", "variant"), str),
    "reasoning_tokens": int,
    "target_length": int,
    "right": bool,
    "spans": list,
}
SUMMARY_FIELDS: jsonl.Fields = {
    **dict.fromkeys(("label", "variant"), str),
    **dict.fromkeys(("reasoning_tokens", "target_length", "n", "right"), int),
    **dict.fromkeys(("spans", "verbatim_spans"), int),
    **dict.fromkeys(("accuracy", "low", "high"), jsonl.NUMBER),
}


def run_probe(
    policy: Policy,
    tokenizer: Tokenizer,
    config: ConfigDict,
    *,
    label: str,
    made_by: str,
    folder: Path,
    place: Callable[[Any], Any],
    progress: Callable[[Iterable, str], Iterable],
    mesh: Mesh | None = None,
) -> list[Row]:
    """Probe a policy without a thought and after thoughts of every length of the config.

    The examples are the first of the validation task of `retrieval`, generated here whatever
    `data.source` is. All variants of an example are one group, whose prompt and thought are
    prefilled once. Decoding is greedy, under the constraint. Rows that the folder already holds
    are kept, so that an interrupted probe goes on.

    Args:
      label: what the policy is called in the rows, such as "start" or "grpo".
      made_by: which policy this is, such as "grpo step 20"; a folder holds the rows of one.
      place: puts a batch of prompts on the devices.
      progress: wraps an iterable into a progress bar with a title.
      mesh: the policy's; where several processes share it, all probe together, and the leading one
        writes.

    Returns:
      A summary row for each length and variant; also written to `summary.json`. Nothing where
      another process leads.

    Raises:
      UserError: the folder holds rows that another config or policy made, the model's context is
        too short, or spans may be copied from the response.
    """
    if config.decoding.copy_source != "prompt":
        raise UserError(
            f"config.decoding.copy_source = {config.decoding.copy_source!r}: the probe's thoughts "
            "can't be copied from; give 'prompt'"
        )
    remedy = "give the same config and checkpoint, or another --workdir"
    kept = (name for name in MAY_CHANGE if name != "probe.")
    sizes = ("probe.reasoning_tokens", "probe.num_examples", "probe.batch_size")
    may_change = (*kept, *TRAINING, *sizes, "evaluation.", "data.source")
    leads = processes.leads(mesh)
    if leads:
        keep_config(config, folder, may_change=may_change, remedy=remedy, policy=made_by)
    settings = dataclasses.replace(task_settings(config), target_length=config.probe.target_length)
    records = [
        generate.record(DATASET, tokenizer, settings, "validation", config.seed, index)
        for index in range(config.probe.num_examples)
    ]
    asked = {record.example_id for record in records}
    policy = for_rollout(policy)
    summaries = []
    for tokens in (0, *sorted(set(config.probe.reasoning_tokens))):
        probes = make_probes(records, tokenizer, config, tokens)
        new_tokens = _longest_prefix(probes) + config.probe.max_new_tokens
        check_context(policy, config, tokens, new_tokens)
        path = folder / f"thought_{tokens}.jsonl"
        done = _keep_whole(path, tokens) if leads else []
        ids = {record.example_id for record in missing_records(records, done, mesh)}
        missing = [item for item in probes if item.record.example_id in ids]
        size = config.probe.batch_size
        batches = [missing[i : i + size] for i in range(0, len(missing), size)]
        with appending(path) if leads else contextlib.nullcontext(lambda lines: None) as add:
            for batch in progress(batches, f"probe {label}: {tokens} tokens of thought"):
                rows = _probe_batch(policy, tokenizer, config, batch, tokens, new_tokens, place)
                for row in rows:
                    row["label"] = label
                add("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
                done += rows
        if not leads:
            continue
        for variant in variants(tokens):
            of_variant = [
                row for row in done if row["example_id"] in asked and row["variant"] == variant
            ]
            summaries.append(summarise(of_variant))
    if not leads:
        return []
    summaries.sort(key=lambda row: (VARIANTS.index(row["variant"]), row["reasoning_tokens"]))
    write_whole(folder / SUMMARY, json.dumps(summaries, indent=1) + "\n")
    return summaries


def make_probes(
    records: Sequence[Record], tokenizer: Tokenizer, config: ConfigDict, reasoning_tokens: int
) -> list[Probe]:
    """Return the probe of each record, with a thought of that length."""
    return [
        probe(
            record,
            tokenizer,
            generator(f"lost_in_thought/{reasoning_tokens}", config.seed, index),
            reasoning_tokens=reasoning_tokens,
            max_recall_length=config.decoding.max_recall_length,
        )
        for index, record in enumerate(records)
    ]


def _longest_prefix(probes: Sequence[Probe]) -> int:
    return max(len(prefix) for item in probes for prefix in item.prefixes.values())


def check_context(
    policy: Policy, config: ConfigDict, reasoning_tokens: int, new_tokens: int
) -> None:
    """Refuse a length that the model's context can't hold.

    Raises:
      UserError: names the field.
    """
    length, limit = config.probe.target_length, policy.config.max_positions
    if length + reasoning_tokens + new_tokens > limit:
        raise UserError(
            f"config.probe.target_length = {length} with a thought of {reasoning_tokens} and an "
            f"answer of {new_tokens} tokens exceeds the model's context of {limit}; lower it, or "
            "probe.reasoning_tokens"
        )


def _keep_whole(path: Path, reasoning_tokens: int) -> list[Row]:
    """Drop from a file the rows of examples that lack a variant; return the rest."""
    rows = list(jsonl.read_rows(path, _FIELDS))
    wanted = set(variants(reasoning_tokens))
    for number, row in enumerate(rows, 1):
        if row["variant"] not in wanted or row["reasoning_tokens"] != reasoning_tokens:
            raise UserError(
                f"{path}, line {number} is no row of this file: variant {row['variant']!r} after "
                f"{row['reasoning_tokens']} tokens; delete that line, or the file"
            )
    counts = collections.Counter(row["example_id"] for row in rows)
    whole = [row for row in rows if counts[row["example_id"]] == len(wanted)]
    if path.exists():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in whole)
        write_whole(path, "".join(lines))
    return whole


def _probe_batch(
    policy, tokenizer, config, probes, reasoning_tokens, new_tokens, place
) -> list[Row]:
    # A last, smaller batch is filled up, so that nothing is compiled for its size.
    filled = [*probes, *[probes[0]] * (config.probe.batch_size - len(probes))]
    length = config.probe.target_length + reasoning_tokens
    prompts, texts = prompts_and_texts([item.record for item in filled], length)
    names = variants(reasoning_tokens)
    # Shorter ones end in SAMPLED.
    width = new_tokens - config.probe.max_new_tokens
    prefix = np.full((len(filled), len(names), width), SAMPLED, np.int32)
    for rows, item in zip(prefix, filled, strict=True):
        for row, name in zip(rows, names, strict=True):
            row[: len(item.prefixes[name])] = item.prefixes[name]
    numbers = np.array([text.number for text in texts], np.uint32)
    keys = row_keys(config.seed, 0, numbers, len(names))
    prompts, keys, prefix = place((prompts, keys, prefix))
    limits = Limits(span_rules(config, tokenizer), new_tokens, (tokenizer.eos_id,))
    decoded = decode(
        policy, prompts, keys, sampling=Sampling(temperature=0.0), limits=limits, prefix=prefix
    )
    rollout = read_rollout(decoded, limits, tokenizer.decode, processes.fetch)
    tokens, lengths = processes.fetch((decoded.tokens, decoded.lengths))
    found = []
    for number, item in enumerate(probes):
        rows = response_rows(rollout, number, texts[number], item.record, tokenizer)
        for place_in_group, (name, row) in enumerate(zip(names, rows, strict=True)):
            response = tokens[number, place_in_group, : lengths[number, place_in_group]].tolist()
            # A row with a shorter prefix could write more; all are read equally far.
            end = len(item.prefixes[name]) + config.probe.max_new_tokens
            read = _read(name, response, end, row["spans"], item, tokenizer)
            found.append(
                {
                    "example_id": item.record.example_id,
                    "variant": name,
                    "reasoning_tokens": reasoning_tokens,
                    "target_length": config.probe.target_length,
                    "prompt": item.prompt,
                    "thought": item.thought,
                    "prefix": tokenizer.decode(item.prefixes[name]),
                    "response": row["completion"],
                    "read": read,
                    "value": item.value,
                    "right": is_right(read, item.value),
                    "spans": row["spans"],
                }
            )
    return found


def _read(
    variant: str,
    response: Sequence[int],
    end: int,
    spans: Sequence[Row],
    item: Probe,
    tokenizer: Tokenizer,
) -> str:
    """Return what counts as the value among the first `end` tokens of a response."""
    first, last = spans[0]["response_tokens"] if variant in IN_SPAN else (0, len(response))
    ids = [token for token in response[first : min(last, end)] if token != tokenizer.eos_id]
    return read_value(variant, tokenizer.decode(ids), item.cue)


def summarise(rows: Sequence[Row]) -> Row:
    """Return the summary of one variant at one length; intervals are Wilson's, 95 %."""
    right = sum(row["right"] for row in rows)
    low, high = wilson_interval(float(right), len(rows))
    spans = [span for row in rows for span in row["spans"]]
    first = rows[0]
    return {
        **{name: first[name] for name in ("label", "variant", "reasoning_tokens")},
        "target_length": first["target_length"],
        "n": len(rows),
        "right": right,
        "accuracy": right / len(rows),
        "low": low,
        "high": high,
        "spans": len(spans),
        "verbatim_spans": sum(span["verbatim"] for span in spans),
    }


def format_probe(summaries: Sequence[Row]) -> str:
    """Return the summary as a table for the console."""
    lines = [("policy", "variant", "thought", "n", "right", "95 % interval", "verbatim spans")]
    for row in summaries:
        lines.append(
            (
                row["label"],
                row["variant"],
                str(row["reasoning_tokens"]),
                str(row["n"]),
                f"{100 * row['accuracy']:.1f} %",
                f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %",
                f"{row['verbatim_spans']}/{row['spans']}",
            )
        )
    return align(lines)


def read_summary(path: Path) -> list[Row]:
    """Return the rows of a probe's `summary.json`.

    Raises:
      UserError: it is damaged.
    """
    try:
        rows = json.loads(read_text(path))
        if not isinstance(rows, list) or not rows:
            raise ValueError("it is no list of rows")
        for row in rows:
            jsonl.check_fields(row, SUMMARY_FIELDS)
            if row["variant"] not in VARIANTS:
                raise ValueError(f"'variant' can't be {row['variant']!r}")
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); the probe's command writes it anew"
        ) from None
    return rows
