"""A look at the records of a run before anything is trained, or its folder claimed."""

import contextlib
from collections.abc import Sequence
from itertools import islice

from ml_collections import ConfigDict

from recallm_jax.data.arrays import check_demonstrations, prompts_and_texts
from recallm_jax.data.records import JSONL, check_data, train_records, validation_records
from recallm_jax.data.released import (
    read_trace_records,
    say_shared_questions,
    shared_questions,
)
from recallm_jax.data.settings import RELEASE, evaluated_datasets, evaluated_lengths, prompt_room
from recallm_jax.evaluation.tasks import suite_records
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.stages import SFT_STAGES, Stage
from storage.errors import naming
from tasks.prompts.record import read_jsonl
from tasks.prompts.vocabulary import Tokenizer
from tasks.suites.registry import suite_tasks

# The most training records, and the most tokens of them, that are looked at: a few seconds.
MOST_RECORDS, MOST_TOKENS = 256, 1 << 18
# Records of each validation task.
VALIDATION_RECORDS = 4


def check_precision(config: ConfigDict) -> None:
    """Refuse to train parameters that can't hold what they learn.

    Raises:
      UserError: they are kept in bfloat16, whose neighbouring numbers are 0.4 % apart: a hundred
        steps of policy gradients move a parameter by less.
    """
    # Adapters are always float32.
    if config.model.param_dtype == "bfloat16" and not config.model.lora.rank:
        raise UserError(
            "config.model.param_dtype = 'bfloat16' would round updates away; train with 'float32' "
            "(config.model.dtype = 'bfloat16' computes in bfloat16 all the same), or train "
            "adapters: config.model.lora.rank = 16"
        )


def check_records(config: ConfigDict, tokenizer: Tokenizer, stages: Sequence[Stage]) -> None:
    """Refuse a run whose prompts or demonstrations don't fit.

    The check reads the run's first training records (`MOST_RECORDS`, or fewer where prompts are
    long) and the first of every validation task. A record takes milliseconds, so this takes some
    seconds; a later record may still be refused when its step comes.

    Raises:
      UserError: a prompt is longer than its length, or a demonstration longer than
        `decoding.max_new_tokens` (the error names the record); or a step has more prompts than
        there are examples.
      TaskInputError: no example fits `data.target_length`, or none can be drawn.
    """
    check_data(config, tokenizer)
    shared = {}
    for dataset in evaluated_datasets(config):
        for length in evaluated_lengths(config, dataset):
            with naming(f"config.evaluation.lengths = {length}"):
                records = validation_records(
                    config, tokenizer, dataset, length, most=VALIDATION_RECORDS
                )
                prompts_and_texts(records, prompt_room(config, length))
        if config.data.source.startswith(RELEASE):
            shared[dataset] = shared_questions(config, dataset)
    say_shared_questions(shared)
    for task in suite_tasks(config.evaluation.suites):
        for length in config.evaluation.lengths:
            with naming("config.evaluation.suites"):
                suite_records(config, tokenizer, task, length, most=1)
    length = config.data.target_length
    total = sum(stage.steps * stage.batch_size for stage in stages)
    shown = sum(stage.steps * stage.batch_size for stage in stages if stage.name in SFT_STAGES)
    looked_at = min(total, MOST_RECORDS, max(1, MOST_TOKENS // length))
    with contextlib.closing(train_records(config, tokenizer, 0)) as stream:
        records = list(islice(stream, looked_at))
    prompts_and_texts(records, length)
    if config.data.source.startswith(JSONL):
        _check_distinct(config, stages)
    if config.data.traces and shown:
        prompts_and_texts(read_trace_records(config, tokenizer)[:MOST_RECORDS], length)
        return
    # The stages that learn from demonstrations come first, and so do their records.
    check_demonstrations(records[:shown], config.decoding.max_new_tokens)


def _check_distinct(config: ConfigDict, stages: Sequence[Stage]) -> None:
    """Refuse a step that holds a prompt twice: its responses would be sampled twice alike."""
    path = config.data.source.removeprefix(JSONL)
    count = len({record.example_id for record in read_jsonl(path)})
    for stage in stages:
        if stage.name not in SFT_STAGES and count < stage.batch_size:
            raise UserError(
                f"data.source {config.data.source} has {count} examples, fewer than the "
                f"{stage.batch_size} prompts of a step; add some, or lower "
                f"config.{stage.name}.prompts_per_step"
            )
