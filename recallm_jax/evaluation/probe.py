"""The lost-in-thought probe of a policy: one JSONL row a response, and accuracy by variant."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from decoding.policy import Policy
from decoding.sampling import Sampling
from recallm_jax.config.kept import MAY_CHANGE, REWARD, TRAINING, keep_config
from recallm_jax.config.rewards import evaluation_rewards
from recallm_jax.data.settings import task_settings
from recallm_jax.evaluation.files import keep_whole, write_in_order
from recallm_jax.evaluation.loop import Evaluated
from recallm_jax.evaluation.respond import Asked
from recallm_jax.evaluation.rows import Answered, response_rows
from recallm_jax.evaluation.sheet import Sheet, answer_missing
from recallm_jax.evaluation.statistics import wilson_interval
from recallm_jax.evaluation.summaries import Row, align
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import Mode, span_rules
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.runtime import jsonl
from recallm_jax.runtime.errors import UserError
from storage.files import Path, read_text, write_whole
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
# Arguments of the check that a folder's rows have the same config and policy.
_SIZES = ("probe.reasoning_tokens", "probe.num_examples", "probe.batch_size")
HELD: dict[str, Any] = {
    "may_change": (
        *(name for name in MAY_CHANGE if name != "probe."),
        *TRAINING,
        *_SIZES,
        "evaluation.",
        "data.source",
        *REWARD,
    ),
    "remedy": "give the same config and checkpoint, or another --workdir",
}
SUMMARY = "summary.json"
# The fields of a row, and of a row of the summary, that are read.
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


def run_probe(config: ConfigDict, context: Context, policy: Policy, probed: Evaluated) -> list[Row]:
    """Probe a policy without a thought and after thoughts of every length of the config.

    The examples are the first ones of the validation task of `retrieval`, generated here whatever
    `data.source` is. All variants of an example are one group, whose prompt and thought are
    prefilled once. Decoding is greedy, under the constraint. Rows that the folder already holds
    are kept, so that an interrupted probe goes on. If several processes share the mesh, all
    probe together, and the leading one writes.

    Returns:
      A summary row for each length and variant; also written to `summary.json`. Empty if
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
    if context.leads:
        keep_config(config, probed.folder, **HELD, policy=probed.made_by)
    settings = dataclasses.replace(task_settings(config), target_length=config.probe.target_length)
    records = [
        generate.record(DATASET, context.tokenizer, settings, "validation", config.seed, index)
        for index in range(config.probe.num_examples)
    ]
    ids = [record.example_id for record in records]
    policy = for_rollout(policy)
    summaries = []
    for tokens in (0, *sorted(set(config.probe.reasoning_tokens))):
        probes = make_probes(records, context.tokenizer, config, tokens)
        sheet = _sheet(config, context.tokenizer, probes, tokens, probed)
        check_context(policy, config, tokens, sheet.asked.max_new_tokens)
        rows = _rows_there(sheet.path, tokens) if context.leads else []
        rows = answer_missing(config, context, policy, sheet, rows)
        if context.leads:
            rows = write_in_order(sheet.path, ids, rows)
            summaries += [
                summarise([row for row in rows if row["variant"] == variant])
                for variant in variants(tokens)
            ]
    if context.leads:
        summaries.sort(key=lambda row: (VARIANTS.index(row["variant"]), row["reasoning_tokens"]))
        write_whole(probed.folder / SUMMARY, json.dumps(summaries, indent=1) + "\n")
    return summaries


def make_probes(
    records: Sequence[Record], tokenizer: Tokenizer, config: ConfigDict, reasoning_tokens: int
) -> list[Probe]:
    """Return the probe of each record, with a thought of the given length."""
    return [
        probe(
            record,
            tokenizer,
            generator(f"lost_in_thought/{reasoning_tokens}", config.seed, index),
            reasoning_tokens=reasoning_tokens,
            max_recall_length=config.decoding.max_recall_length,
            thinking=config.data.thinking,
        )
        for index, record in enumerate(records)
    ]


def _sheet(
    config: ConfigDict,
    tokenizer: Tokenizer,
    probes: Sequence[Probe],
    reasoning_tokens: int,
    probed: Evaluated,
) -> Sheet:
    """Make the sheet of thoughts of one length: each example is answered in a group of variants."""
    by_id = {item.record.example_id: item for item in probes}
    prefixes = {name: list(item.prefixes.values()) for name, item in by_id.items()}
    longest = max(len(prefix) for group in prefixes.values() for prefix in group)
    names = variants(reasoning_tokens)
    rules = span_rules(config, tokenizer)
    asked = Asked(
        title=f"{probed.label}: {reasoning_tokens} tokens of thought",
        records=[item.record for item in probes],
        mode=Mode("probe", Sampling(temperature=0.0), rules, len(names)),
        length=config.probe.target_length + reasoning_tokens,
        max_new_tokens=longest + config.probe.max_new_tokens,
        batch_size=config.probe.batch_size,
        prefixes=prefixes,
    )

    def rows_of(answered: Answered) -> list[Row]:
        item = by_id[answered.record.example_id]
        rows = _probe_rows(config, tokenizer, item, reasoning_tokens, answered)
        return [row | {"label": probed.label} for row in rows]

    path = probed.folder / f"thought_{reasoning_tokens}.jsonl"
    return Sheet(path, asked, rows_of, work="probe")


def check_context(
    policy: Policy, config: ConfigDict, reasoning_tokens: int, new_tokens: int
) -> None:
    """Refuse a length that the model's context can't hold.

    Raises:
      UserError: names the field.
    """
    length, limit = config.probe.target_length, policy.max_positions
    if length + reasoning_tokens + new_tokens > limit:
        raise UserError(
            f"config.probe.target_length = {length} with a thought of {reasoning_tokens} and an "
            f"answer of {new_tokens} tokens exceeds the model's context of {limit}; lower it, or "
            "probe.reasoning_tokens"
        )


def _rows_there(path: Path, reasoning_tokens: int) -> list[Row]:
    """Return a file's rows of the examples that have all variants; drop the others from it."""
    rows = list(jsonl.read_rows(path, _FIELDS))
    wanted = set(variants(reasoning_tokens))
    for number, row in enumerate(rows, 1):
        if row["variant"] not in wanted or row["reasoning_tokens"] != reasoning_tokens:
            raise UserError(
                f"{path}, line {number} is not a row of this file: variant {row['variant']!r} "
                f"after {row['reasoning_tokens']} tokens; delete that line, or the file"
            )
    return keep_whole(path, rows, len(wanted))


def _probe_rows(
    config: ConfigDict,
    tokenizer: Tokenizer,
    item: Probe,
    reasoning_tokens: int,
    answered: Answered,
) -> list[Row]:
    """Return a row for each variant of an example: its prefix, its response, and the value read."""
    found = []
    rows = response_rows(answered, tokenizer, evaluation_rewards(config))
    tokens = answered.read.tokens[answered.number]
    for (variant, prefix), row, ids in zip(item.prefixes.items(), rows, tokens, strict=True):
        # A row with a shorter prefix could write more; all are read equally far.
        end = min(row["completion_tokens"], len(prefix) + config.probe.max_new_tokens)
        read = _read(variant, ids[:end].tolist(), row["spans"], item, tokenizer)
        found.append(
            {
                "example_id": row["example_id"],
                "variant": variant,
                "reasoning_tokens": reasoning_tokens,
                "target_length": config.probe.target_length,
                "prompt": item.prompt,
                "thought": item.thought,
                "prefix": tokenizer.decode(prefix),
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
    spans: Sequence[Row],
    item: Probe,
    tokenizer: Tokenizer,
) -> str:
    """Return the text that counts as the value in the tokens of a response."""
    first, last = spans[0]["response_tokens"] if variant in IN_SPAN else (0, len(response))
    ids = [token for token in response[first:last] if token not in tokenizer.end_ids]
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
            raise ValueError("it is not a list of rows")
        for row in rows:
            jsonl.check_fields(row, SUMMARY_FIELDS)
            if row["variant"] not in VARIANTS:
                raise ValueError(f"'variant' can't be {row['variant']!r}")
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); the probe's command writes it anew"
        ) from None
    return rows
