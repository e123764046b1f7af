"""The config of a folder of results: kept beside them, and compared with later configs.

A run is a function of its config; results of two configs are never mixed in one folder.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from recallm_jax.config.fields import FIELDS
from recallm_jax.config.load import check_config, flatten
from recallm_jax.config.rewards import reward_file_hash
from recallm_jax.runtime.errors import UserError
from storage.errors import naming
from storage.files import Path, make_folder, read_text, write_whole

FILE = "config.json"
# Fields, or sections, that may change between two starts of a run: where and how fast it computes,
# and which evaluations there are.
MAY_CHANGE = (
    "topology",
    "compilation_cache",
    "mesh.",
    "checkpoint.",
    "tracking.",
    "model.preset",
    "model.extra_positions",
    "model.remat",
    "model.attention",
    "model.unstack_decode",
    "model.logits_chunk",
    "sft1.micro_batch",
    "sft2.micro_batch",
    "grpo.micro_batch",
    "ppo.micro_batch",
    "grpo.rollout_parts",
    "ppo.rollout_parts",
    "evaluation.lengths",
    "evaluation.datasets",
    "evaluation.modes",
    "evaluation.suites",
    "evaluation.policies",
    "evaluation.num_examples",
    "evaluation.batch_size",
    "probe.",
)
STAGES = ("stages", "sft1.", "sft2.", "grpo.", "ppo.", "optimizer.", "data.traces")
# Fields that an evaluation of given weights does not depend on, either.
TRAINING = (*STAGES, "data.mixture.", "data.temperature", "data.target_length")
# Fields that configs of earlier versions lack, with the values that these versions had.
LATER: dict[str, Any] = {
    "model.lora.rank": 0,
    "model.lora.alpha": 32.0,
    "model.lora.matrices": ["query", "key", "value", "attention_output", "gate", "up", "down"],
    "model.adapter": "",
    "decoding.paper_compatible": False,
    "data.system_prompt": "ours",
    "data.thinking": True,
    "data.traces": "",
    "reward.rule": "ours",
    "reward.format_weight": 0.2,
    "reward.sum_weight": 0.4,
    "reward.product_weight": 0.4,
    "reward.retrieval_share": 0.5,
    "reward.gold_documents": True,
    "reward.density": True,
    "reward.density_limit": 4.0,
    "reward.many_shot_gold_mode": "top_k_gold",
    "reward.function": "",
    "tracking.wandb_project": "",
    "evaluation.datasets": [],
}
# How responses are scored: saved ones can be scored again.
REWARD = ("reward.", "reward_function_sha256")
# Fields that prepared records depend on, as they do on the seed and the tokenizer.
RECORDS = (
    "data.mixture.",
    "data.temperature",
    "data.dir",
    "data.corpus",
    "data.system_prompt",
    "data.thinking",
    "data.target_length",
    "data.value_length",
    "data.formats",
    "data.terms",
    "data.operators",
    "decoding.span_alignment",
)


def keep_config(
    config: ConfigDict,
    folder: Path,
    *,
    may_change: Sequence[str],
    remedy: str,
    policy: str | None = None,
    by: str = "",
) -> None:
    """Write `config.json` into a folder of results, unless these were made with another config.

    Args:
      may_change: beginnings of the names of fields that may differ from the kept ones.
      remedy: what the user can do if another field differs.
      policy: the policy of a run that made the results, such as "grpo step 20"; kept and compared
        like a field.
      by: the writer, if several may write at the same time (`storage.files.written_whole`).

    Raises:
      UserError: the folder holds results of another config; names the field and both values.
    """
    check_kept(config, folder, may_change=may_change, remedy=remedy, policy=policy)
    make_folder(folder)
    write_whole(folder / FILE, _json(_kept(config, policy)) + "\n", by=by)


def check_kept(
    config: ConfigDict,
    folder: Path,
    *,
    may_change: Sequence[str],
    remedy: str,
    policy: str | None = None,
) -> None:
    """Refuse a folder as `keep_config` does, and write nothing."""
    may_differ = tuple(may_change)
    _hold(folder, _kept(config, policy), lambda name: not name.startswith(may_differ), remedy)


def kept_policy(folder: Path) -> str | None:
    """Return the policy that made a folder's results, as `keep_config` wrote it, or None."""
    path = folder / FILE
    return _values(read_text(path), path).get("policy") if path.exists() else None


def kept_config(folder: Path) -> ConfigDict:
    """Return the config of a run, as its workdir keeps it.

    Raises:
      UserError: the file is missing or damaged, or a later version can't read it.
    """
    path = folder / FILE
    if not path.exists():
        raise UserError(f"{path} is missing, which says how the run was made; give --config")
    values = LATER | _values(read_text(path), path)
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *sections, field = name.split(".")
        if not sections and field not in FIELDS:
            # The policy of an evaluation, and the hash of a reward's file.
            continue
        inside = functools.reduce(lambda at, part: at.setdefault(part, {}), sections, nested)
        inside[field] = tuple(value) if isinstance(value, list) else value
    config = ConfigDict(nested).lock()
    with naming(str(path)):
        check_config(config)
    return config


def keep_reward(config: ConfigDict, folder: Path) -> None:
    """Write into a folder's `config.json` by which reward its rows are scored now."""
    path = folder / FILE
    if path.exists():
        kept = json.loads(read_text(path))
        kept.pop("reward_function_sha256", None)
        write_whole(path, _json(kept | _reward(config)) + "\n")


def _kept(config: ConfigDict, policy: str | None) -> dict[str, Any]:
    return config.to_dict() | _reward(config) | ({"policy": policy} if policy else {})


def _reward(config: ConfigDict) -> dict[str, Any]:
    """Return the section of the reward, and the hash of the file of a user's own."""
    found: dict[str, Any] = {"reward": config.reward.to_dict()}
    if config.reward.function:
        found["reward_function_sha256"] = reward_file_hash(config.reward.function)
    return found


def hold_to_config(config: ConfigDict, folder: Path, *, fields: Sequence[str], remedy: str) -> None:
    """Refuse a folder whose `config.json` differs in some fields; one without it passes.

    Args:
      fields: beginnings of the names of the fields that must agree.
      remedy: what the user can do if one does not.

    Raises:
      UserError: names the field and both values.
    """
    _hold(folder, config.to_dict(), lambda name: name.startswith(tuple(fields)), remedy)


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=1, default=list)


def _hold(folder: Path, values: dict[str, Any], counts: Callable[[str], bool], remedy: str) -> None:
    """Refuse a folder whose `config.json` differs in a field that counts."""
    path = folder / FILE
    if not path.exists():
        return
    old, new = _values(read_text(path), path), _values(_json(values), path)
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name, LATER.get(name)), new.get(name)
        if before != now and counts(name):
            field = name if name == "policy" else f"config.{name}"
            raise UserError(f"{folder} was made with {field} = {before!r}, not {now!r}; {remedy}")


def _values(text: str, path: Path) -> dict[str, Any]:
    try:
        return flatten(ConfigDict(json.loads(text)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, or the whole folder") from None
