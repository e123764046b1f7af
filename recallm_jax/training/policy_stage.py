"""A policy-gradient stage with the settings that its steps share."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from decoding.decode_loop import Limits
from decoding.sampling import Sampling
from decoding.span_scores import Scoring
from recallm_jax.config.rewards import training_rewards
from recallm_jax.policy.context import Context
from recallm_jax.training.stages import PPO, Stage, scoring_of, training_rules
from rl.learner import PolicyLoss
from rl.packing import Packing, pack
from rl.rewards.rule import RewardRule
from rl.row_sizes import RowSizes, row_sizes


@dataclasses.dataclass(frozen=True)
class PolicyStage:
    """A stage of the GRPO family or of PPO.

    Attributes:
      options: the stage's section of the config.
      seed: the seed of the run.
      prompt_length: the number of tokens that prompts are padded to.
      sampling, limits: the settings of the sampler.
      scoring: the settings of the trainer's scores, with the sampler's span mask.
      loss: the loss of an update.
      sizes: the sizes of rows that responses are packed into for scores and updates; see `sized`.
      rewards: the rule of the rewards.
    """

    context: Context
    stage: Stage
    options: ConfigDict
    seed: int
    prompt_length: int
    sampling: Sampling
    limits: Limits
    scoring: Scoring
    loss: PolicyLoss
    sizes: RowSizes
    rewards: RewardRule

    @property
    def max_draws(self) -> int:
        """The most batches of groups that a step samples."""
        return self.options.max_draws if self.stage.name != PPO else 1

    @property
    def update_options(self) -> dict[str, Any]:
        """The options of `policy_update` beside the packing."""
        return {"optimizer": self.stage.optimizer, "scoring": self.scoring, "loss": self.loss}

    def pack(self, lengths: Int[np.ndarray, "B G"]) -> Packing:
        """Return the micro-batches of responses with these lengths."""
        return pack(lengths, self.sizes.chosen, self._num_parts(lengths))

    def sized(self, lengths: Int[np.ndarray, "B G"]) -> "PolicyStage":
        """Return the stage with the sizes of rows that a batch of these lengths asks for."""
        sizes = self.sizes.chosen_for(lengths, self._num_parts(lengths))
        return dataclasses.replace(self, sizes=sizes)

    def _num_parts(self, lengths: Int[np.ndarray, "B G"]) -> int:
        return len(lengths) // self.options.micro_batch

    @property
    def updates_once(self) -> bool:
        """Whether there is only one update on a batch."""
        return self.options.minibatches * self.options.epochs == 1


def policy_stage(config: ConfigDict, context: Context, stage: Stage) -> PolicyStage:
    """Return a stage with its settings from the config."""
    options = config[stage.name]
    rules = training_rules(config, context)
    return PolicyStage(
        context=context,
        stage=stage,
        options=options,
        seed=config.seed,
        prompt_length=config.data.target_length,
        sampling=Sampling(temperature=options.temperature),
        limits=Limits(rules, config.decoding.max_new_tokens, context.tokenizer.end_ids),
        scoring=scoring_of(config, rules, temperature=options.temperature),
        loss=policy_loss(config, stage),
        sizes=row_sizes(
            limit=config.decoding.max_new_tokens,
            group_size=options.group_size,
            prompt_length=config.data.target_length,
            parts=config.mesh.sequence,
        ),
        rewards=training_rewards(config),
    )


def policy_loss(config: ConfigDict, stage: Stage) -> PolicyLoss:
    """Return the loss that a stage's section of the config defines."""
    options = config[stage.name]
    shared = {
        name: options[name] for name in ("clip_low", "clip_high", "importance_cap", "aggregation")
    }
    if stage.name == PPO:
        return PolicyLoss(
            kl_coefficient=0.0,
            value_coefficient=options.value_coefficient,
            value_clip=options.value_clip,
            **shared,
        )
    return PolicyLoss(
        kl_coefficient=options.kl_coefficient if options.kl_in == "loss" else 0.0,
        kl_estimator=options.kl_estimator,
        ratio=options.ratio,
        **shared,
    )
