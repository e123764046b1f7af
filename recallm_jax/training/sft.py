"""The cold start's stages: fine-tuning on demonstrations, under the span mask."""

from typing import Any

import jax
from ml_collections import ConfigDict

from decoding.arrays import AnyArray
from decoding.prompts import Prompts
from decoding.rollout import Rollout
from decoding.span_copy import SpanRules, index_prompts
from recallm_jax.data.arrays import demonstrations, prompts_and_texts
from recallm_jax.policy.context import Context
from recallm_jax.runtime import processes
from recallm_jax.runtime.timing import Stopwatch
from recallm_jax.training.bad_batch import Inspected
from recallm_jax.training.speed import (
    DATA,
    UPDATE,
    count_tokens,
    padding_of,
    seconds_metrics,
    update_speed,
)
from recallm_jax.training.stages import Loop, Progress, Stage, finite, scoring_of, training_rules
from rl.learner import LearnerState, sft_update
from rl.packing import pack
from rl.row_sizes import RowSizes, row_sizes


def run_sft(
    config: ConfigDict, context: Context, stage: Stage, state: LearnerState, loop: Loop
) -> LearnerState:
    """Fine-tune on demonstrations, under the span mask (arXiv 2604.09494, section 4.1)."""
    options, num_parts = sft_options(config, context, stage), num_parts_of(config, stage)
    sizes = sft_sizes(config).resumed(loop.progress.row_sizes)
    rules, watch = options["scoring"].rules, Stopwatch()
    for step in loop.steps:
        with watch.part(DATA):
            records = next(loop.data)
            prompts, _ = prompts_and_texts(records, config.data.target_length)
            tokens, lengths = demonstrations(records, config.decoding.max_new_tokens)
        with watch.part(UPDATE):
            placed = context.place_rows((prompts, tokens, lengths), stage.batch_size)
            prompts, tokens, lengths = placed
            num_rows = state.policy.vocab_rows
            rollout = demonstrated(prompts, tokens, lengths, rules=rules, num_rows=num_rows)
            fetched = processes.fetch(lengths)
            sizes = sizes.chosen_for(fetched, num_parts)
            packing = pack(fetched, sizes.chosen, num_parts)
            state, metrics = sft_update(state, rollout, packing=packing, **options)
            jax.block_until_ready((state, metrics))
        shares = {
            "demonstrated": float((lengths > 0).mean()),
            "padding": padding_of(rollout, packing),
        }
        seen = Inspected(records, rollout)
        found = finite(metrics, stage, step, seen) | shares
        seconds = watch.lap()
        speed = update_speed(context, count_tokens(rollout), seconds[UPDATE])
        loop.write(step, found | seconds_metrics(seconds) | speed)
        loop.save(step + 1, state, Progress((step + 1) * stage.batch_size, sizes.chosen))
    return state


def sft_options(config: ConfigDict, context: Context, stage: Stage) -> dict[str, Any]:
    """Return the options of a stage's updates (`sft_update`) beside the packing."""
    return {
        "optimizer": stage.optimizer,
        "scoring": scoring_of(config, training_rules(config, context), temperature=1.0),
        # Its optimiser trains some of their rows.
        "matrices_only": stage.name == "sft1",
    }


def sft_sizes(config: ConfigDict) -> RowSizes:
    """Return the sizes that rows of demonstrations may have."""
    return row_sizes(
        limit=config.decoding.max_new_tokens, group_size=1, prompt_length=config.data.target_length
    )


def num_parts_of(config: ConfigDict, stage: Stage) -> int:
    """Return the number of micro-batches of a stage's updates."""
    return stage.batch_size // config[stage.name].micro_batch


def demonstrated(
    prompts: Prompts, tokens: AnyArray, lengths: AnyArray, *, rules: SpanRules, num_rows: int
) -> Rollout:
    """Return demonstrations [B, 1, T] as a rollout without log-probabilities of a sampler."""
    index = _index_prompts(prompts, rules=rules, num_rows=num_rows)
    return Rollout(prompts, index, tokens, lengths)


_index_prompts = jax.jit(index_prompts, static_argnames=("rules", "num_rows"))
