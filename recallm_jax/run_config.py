"""The config that a folder of results was made with: kept beside them, and held to.

A run is a function of its config; results of two configs are never mixed in one folder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from recallm_jax.config import flatten
from recallm_jax.errors import UserError

FILE = "config.json"
# Fields, or sections, that may change between two starts of a run: where and how fast it computes,
# and which evaluations there are.
MAY_CHANGE = (
    "mesh.",
    "checkpoint.",
    "model.remat",
    "model.unstack_decode",
    "model.logits_chunk",
    "sft1.micro_batch",
    "sft2.micro_batch",
    "grpo.micro_batch",
    "evaluation.lengths",
    "evaluation.modes",
    "evaluation.num_examples",
    "evaluation.batch_size",
)
# What an evaluation of given weights does not depend on either.
TRAINING = (
    "stages",
    "sft1.",
    "sft2.",
    "grpo.",
    "optimizer.",
    "data.mixture.",
    "data.target_length",
)


def keep_config(
    config: ConfigDict, folder: Path, *, may_change: Sequence[str], remedy: str
) -> None:
    """Write `config.json` into a folder of results, unless these were made with another config.

    Args:
      may_change: beginnings of the names of fields that may differ from what stands there.
      remedy: what the user can do where another field differs.

    Raises:
      UserError: the folder holds results of another config; names the field and both values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    text = json.dumps(config.to_dict(), indent=1, default=list)
    if path.exists():
        old, new = _values(path.read_text(encoding="utf-8"), path), _values(text, path)
        for name in sorted(old.keys() | new.keys()):
            before, now = old.get(name), new.get(name)
            if before != now and not name.startswith(tuple(may_change)):
                raise UserError(
                    f"{folder} was made with config.{name} = {before!r}, not {now!r}; {remedy}"
                )
    partial = path.with_name(FILE + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def _values(text: str, path: Path) -> dict[str, Any]:
    try:
        return flatten(ConfigDict(json.loads(text)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, or the whole folder") from None
