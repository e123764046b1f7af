"""Every field of a config: its type and the values that it may have. Defaults live in configs/."""

import dataclasses
import difflib
import math
import sys
from typing import Any, get_args

from decoding.sampling import LOWEST_TEMPERATURE
from recallm_jax.models.presets import PRESETS, ROPE_SCALINGS
from recallm_jax.runtime.errors import UserError
from rl.advantages import OF_GROUPS
from rl.losses import KL, Aggregation, Ratio
from tasks.names import DATASETS


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field may hold.

    Attributes:
      kind: type of the value, or of the items where `many`. An int may stand for a float.
      many: a tuple of one or more values.
      empty: whether `many` may have none.
      low, high: bounds, both included.
      above, below: bounds that the value must keep clear of.
      choices: the only values.
      blank: whether a text may be empty.
    """

    kind: type
    many: bool = False
    empty: bool = False
    low: int | float = -math.inf
    high: int | float = math.inf
    above: int | float = -math.inf
    below: int | float = math.inf
    choices: tuple[str, ...] = ()
    blank: bool = False


_COUNT = Field(int, low=1)
_NOT_NEGATIVE = Field(float, low=0.0)
_POSITIVE = Field(float, above=0.0)
_SHARE = Field(float, low=0.0, high=1.0)
_DECAY = Field(float, low=0.0, below=1.0)
_TEMPERATURE = Field(float, low=LOWEST_TEMPERATURE)
_TEXT = Field(str)

# Of GRPO and PPO alike.
_POLICY_GRADIENT = {
    "steps": _COUNT,
    "prompts_per_step": _COUNT,
    "group_size": _COUNT,
    "micro_batch": _COUNT,
    "warmup_fraction": _SHARE,
    "temperature": _TEMPERATURE,
    "kl_coefficient": _NOT_NEGATIVE,
    "clip_low": Field(float, above=0.0, high=1.0),
    "clip_high": _POSITIVE,
    "importance_cap": _POSITIVE,
    "overlong_buffer": Field(int, low=0),
    "aggregation": Field(str, choices=get_args(Aggregation)),
    "rollout_parts": _COUNT,
    "minibatches": _COUNT,
    "epochs": _COUNT,
}
FIELDS = {
    "seed": Field(int, low=0, high=2**31 - 1),
    # Of the TPUs that the mesh is for, such as "v5p:4x4x4"; "" for no certain ones.
    "topology": Field(str, blank=True),
    "model.weights": _TEXT,
    "model.preset": Field(str, choices=("", *sorted(PRESETS)), blank=True),
    "model.rope_scaling": Field(str, choices=("checkpoint", *ROPE_SCALINGS)),
    "model.extra_positions": Field(int, low=0),
    "model.dtype": Field(str, choices=("float32", "bfloat16")),
    "model.param_dtype": Field(str, choices=("float32", "bfloat16")),
    "model.remat": Field(str, choices=("none", "dots", "attention", "full")),
    "model.attention": Field(str, choices=("auto", "xla", "splash")),
    "model.unstack_decode": Field(bool),
    "model.logits_chunk": _COUNT,
    "mesh.data": _COUNT,
    "mesh.fsdp": _COUNT,
    "mesh.sequence": _COUNT,
    "mesh.tensor": _COUNT,
    "data.source": _TEXT,
    **{f"data.mixture.{name}": _NOT_NEGATIVE for name in DATASETS},
    "data.temperature": _POSITIVE,
    "data.dir": Field(str, blank=True),
    "data.corpus": Field(str, blank=True),
    "data.cache_dir": Field(str, blank=True),
    "data.target_length": Field(int, low=128),
    "data.value_length": Field(int, low=4, high=256),
    "data.formats": Field(str, many=True, choices=("lines", "json", "csv")),
    "data.terms": Field(int, many=True, low=1, high=100),
    "data.operators": _TEXT,
    "decoding.constrained": Field(bool),
    "decoding.min_recall_length": _COUNT,
    "decoding.max_recall_length": _COUNT,
    "decoding.copy_source": Field(str, choices=("prompt", "prompt+response")),
    "decoding.paper_compatible": Field(bool),
    "decoding.span_alignment": Field(str, choices=("character", "word", "token")),
    "decoding.max_new_tokens": _COUNT,
    "stages": Field(str, many=True, choices=("sft1", "sft2", "grpo", "ppo")),
    "sft1.steps": _COUNT,
    "sft1.batch_size": _COUNT,
    "sft1.micro_batch": _COUNT,
    "sft1.learning_rate": _POSITIVE,
    "sft1.warmup_fraction": _SHARE,
    "sft2.steps": _COUNT,
    "sft2.batch_size": _COUNT,
    "sft2.micro_batch": _COUNT,
    "sft2.learning_rate": _POSITIVE,
    "sft2.warmup_fraction": _SHARE,
    **{f"grpo.{name}": field for name, field in _POLICY_GRADIENT.items()},
    # A group of one has no mean to be compared with.
    "grpo.group_size": Field(int, low=2),
    "grpo.advantage": Field(str, choices=tuple(OF_GROUPS)),
    "grpo.ratio": Field(str, choices=get_args(Ratio)),
    "grpo.kl_estimator": Field(str, choices=tuple(KL)),
    "grpo.kl_in": Field(str, choices=("loss", "reward")),
    "grpo.max_draws": _COUNT,
    **{f"ppo.{name}": field for name, field in _POLICY_GRADIENT.items()},
    "ppo.critic": Field(str, choices=("shared", "own")),
    "ppo.value_learning_rate": _POSITIVE,
    "ppo.value_coefficient": _POSITIVE,
    "ppo.value_clip": _POSITIVE,
    "ppo.discount": _SHARE,
    "ppo.trace_decay": _SHARE,
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.b1": _DECAY,
    "optimizer.b2": _DECAY,
    "optimizer.eps": _POSITIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.clip_norm": _POSITIVE,
    "evaluation.lengths": Field(int, many=True, low=128),
    # Names of `tasks/suites/registry.py`: suites, or single tasks of theirs.
    "evaluation.suites": Field(str, many=True, empty=True),
    "evaluation.num_examples": _COUNT,
    "evaluation.batch_size": _COUNT,
    "evaluation.modes": Field(
        str,
        many=True,
        choices=(
            "constrained-greedy",
            "unconstrained-greedy",
            "constrained-sampled",
            "unconstrained-sampled",
        ),
    ),
    "evaluation.samples": _COUNT,
    "evaluation.temperature": _TEMPERATURE,
    "evaluation.top_p": Field(float, above=0.0, high=1.0),
    "probe.target_length": Field(int, low=128),
    "probe.reasoning_tokens": Field(int, many=True, low=32),
    "probe.num_examples": _COUNT,
    "probe.batch_size": _COUNT,
    "probe.max_new_tokens": _COUNT,
    "checkpoint.every_steps": _COUNT,
    "checkpoint.keep": _COUNT,
}


def unknown_field(name: str) -> UserError:
    """Return the error for a name that is no field, with the nearest that is."""
    sections = {field.rpartition(".")[0] for field in FIELDS} - {""}
    if name in sections:
        inside = ", ".join(field for field in FIELDS if field.startswith(name + "."))
        return UserError(f"config.{name} is a section; set one of its fields: {inside}")
    last = name.rpartition(".")[2]
    near = [field for field in FIELDS if field.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(name, FIELDS, n=1)
    names = " or ".join(f"config.{field}" for field in near)
    remedy = f"did you mean {names}?" if near else "see recallm_jax/config/fields.py"
    return UserError(f"config.{name} is no field; {remedy}")


def check_field(name: str, value: Any) -> None:
    """Refuse a value of the wrong type or out of bounds.

    Raises:
      UserError: names field, value and remedy.
    """
    field = FIELDS[name]
    if field.many:
        if not isinstance(value, tuple | list) or not (value or field.empty):
            raise UserError(
                f"config.{name} = {value!r} must be a tuple with at least one "
                f"{field.kind.__name__}, such as {_example(field)!r}"
            )
        for item in value:
            _check_value(name, field, item)
    else:
        _check_value(name, field, value)


def _example(field: Field) -> tuple:
    return field.choices[:1] or (int(field.low),)


def _check_value(name: str, field: Field, value: Any) -> None:
    kinds: Any = (int, float) if field.kind is float else field.kind
    if not isinstance(value, kinds) or isinstance(value, bool) != (kinds is bool):
        raise UserError(f"config.{name} = {value!r} has the wrong type; give {field.kind.__name__}")
    if field.choices and value not in field.choices:
        raise UserError(
            f"config.{name} = {value!r} is no choice; use {' or '.join(map(repr, field.choices))}"
        )
    if field.kind is str:
        if not value and not field.blank:
            raise UserError(f"config.{name} is empty; give a text")
    elif not (
        field.low <= value <= field.high
        and field.above < value < field.below
        # An int may be past every float.
        and abs(value) <= sys.float_info.max
    ):
        raise UserError(f"config.{name} = {value!r} is out of bounds; give {_bounds(field)}")


def _bounds(field: Field) -> str:
    parts = []
    if field.above > -math.inf:
        parts.append(f"more than {_number(field.above)}")
    if field.low > -math.inf:
        parts.append(f"at least {_number(field.low)}")
    if field.high < math.inf:
        parts.append(f"at most {_number(field.high)}")
    if field.below < math.inf:
        parts.append(f"less than {_number(field.below)}")
    return " and ".join(parts) or "a finite number"


def _number(bound: int | float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
