"""Loading a config: a Python file, its overrides on the command line, and the checks of both.

    --config=configs/quickstart.py:tiny --config.optimizer.learning_rate=1e-5

A config that passed has exactly the fields of `config/fields.py`, each of its type and
within bounds, and sizes that fit together; so readers write `config.grpo.steps` and nothing else.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from recallm_jax.config.fields import FIELDS, check_field, find_field
from recallm_jax.config.reference import columns
from recallm_jax.config.typed import typed_value
from recallm_jax.runtime.errors import UserError
from storage.errors import InputError, naming
from storage.files import meant_path
from tasks.suites.registry import suite_tasks

_OVERRIDE = re.compile(r"--?(?P<no>no)?config\.(?P<field>[^=]+)")


class JobParser(argparse.ArgumentParser):
    """An argparse parser whose errors are `UserError`s, and which knows no abbreviations."""

    def __init__(self, prog: str, description: str | None):
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise the message that argparse would print below its usage."""
        raise UserError(f"{message}; see {self.prog} --help")


def path_argument(text: str) -> str:
    """Return the path that an argument means; a type for `JobParser.add_argument`."""
    try:
        return meant_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_config(parser: JobParser, argv: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict]:
    """Parse a job's own arguments with its parser, and the config with its overrides.

    Raises:
      UserError: neither of them knows an argument, or the config does not pass.
    """
    parser.epilog = (
        "--config=FILE.py[:variant] is required; --config.FIELD=value overrides a field:\n\n"
        f"{columns()}\n\ndocs/config.md lists them with their defaults."
    )
    arguments, rest = parser.parse_known_args(list(argv))
    return arguments, load_config(rest)


def load_config(argv: Sequence[str]) -> ConfigDict:
    """Return the config that `--config=FILE[:variant]` and its overrides give, checked and locked.

    Raises:
      UserError: a file is missing or broken, a field unknown, a type wrong, or sizes can't work.
    """
    path, overrides = _split(argv)
    if not Path(path.split(":", 1)[0]).is_file():
        raise UserError(
            f"--config={path}: there is no such file; give one of configs/, and run from the clone"
        )
    config = _execute(f"--config={path}")
    check_config(config)
    for name, text in overrides:
        _set(config, name, typed_value(name, text))
    check_config(config)
    _mean_paths(config)
    return config


def _mean_paths(config: ConfigDict) -> None:
    """Put the paths that are meant in the place of those that were typed."""
    for name, value in flatten(config).items():
        field = find_field(name)
        if not field.path or value in ("", *field.words):
            continue
        prefix = value[: value.find(":") + 1] if field.prefixed else ""
        with naming(f"config.{name}"):
            _set(config, name, prefix + meant_path(value.removeprefix(prefix)))


def _set(config: ConfigDict, name: str, value: Any) -> None:
    """Set a field by its dotted name."""
    *sections, last = name.split(".")
    for section in sections:
        config = config[section]
    # The file may leave out the share of a data set of the user's own.
    with config.unlocked():
        config[last] = value


def _split(argv: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Return the config's path, and the overrides as names of fields with the texts of values."""
    path, overrides = None, []
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        flag, equals, value = argument.partition("=")
        named = _OVERRIDE.match(argument)
        if flag not in ("--config", "-config") and named is None:
            raise UserError(f"argument {argument!r} is unknown; see --help")
        if named is not None and find_field(named["field"]).kind is bool:
            # As flags of other programs do: --config.NAME and --noconfig.NAME.
            if named["no"] and not equals:
                overrides.append((named["field"], "false"))
                continue
            if not equals and (not waiting or waiting[0].startswith("-")):
                overrides.append((named["field"], "true"))
                continue
        if named is not None and named["no"]:
            raise UserError(f"{flag} is unknown; write --config.{named['field']}=VALUE")
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise UserError(f"{flag} has no value; write {flag}=VALUE")
            value = waiting.pop(0)
        if named is None:
            path = value
        else:
            overrides.append((named["field"], value))
    if path is None:
        raise UserError("--config is missing; give one, such as --config=configs/quickstart.py")
    return path, overrides


def _execute(argument: str) -> ConfigDict:
    """Return the config that the file of `--config=FILE[:variant]` makes."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", lock_config=True, flag_values=values, sys_argv=["", argument]
    )
    try:
        values(["", argument])
        config = values.config
    except Exception as error:
        # The file is the user's code: it may raise anything. Its own error is at the end of
        # the traceback that the message quotes.
        raise UserError(f"{argument}: {_last_line(error)}") from None
    if not isinstance(config, ConfigDict):
        kind = type(config).__name__
        raise UserError(f"{argument}: get_config must return a ConfigDict, not {kind}")
    return config


def _last_line(error: Exception) -> str:
    message = str(error).strip() or type(error).__name__
    last = [line for line in message.splitlines() if line.strip()][-1].strip()
    return last.removeprefix("ValueError: ")


def check_config(config: ConfigDict) -> None:
    """Refuse a config with a missing, unknown or impossible field, or sizes that can't work.

    Raises:
      UserError: one line naming field, value and remedy.
    """
    values = flatten(config)
    for name in values:
        find_field(name)
    for name in dict.fromkeys((*FIELDS, *values)):
        if name not in values:
            raise UserError(f"config.{name} is missing; set it, as configs/common.py does")
        check_field(name, values[name])
    _check_sizes(config)


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Return the values of a config by their dotted names."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            values |= flatten(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def _check_sizes(config: ConfigDict) -> None:
    decoding = config.decoding
    if decoding.min_recall_length > decoding.max_recall_length:
        raise UserError(
            f"config.decoding.min_recall_length = {decoding.min_recall_length} exceeds "
            f"max_recall_length = {decoding.max_recall_length}; lower it"
        )
    if decoding.max_new_tokens < decoding.min_recall_length + 2:
        raise UserError(
            f"config.decoding.max_new_tokens = {decoding.max_new_tokens} has no room for the "
            f"shortest recall span; give at least {decoding.min_recall_length + 2}"
        )
    for stage in {"grpo", "ppo"} & set(config.stages):
        if config[stage].overlong_buffer > decoding.max_new_tokens:
            raise UserError(
                f"config.{stage}.overlong_buffer = {config[stage].overlong_buffer} exceeds "
                f"decoding.max_new_tokens = {decoding.max_new_tokens}; lower it"
            )
    if len(config.data.terms) != 2 or config.data.terms[0] > config.data.terms[1]:
        raise UserError(
            f"config.data.terms = {tuple(config.data.terms)} must be a range such as (3, 5)"
        )
    source = config.data.source
    if source not in ("seqio", "generated") and not source.startswith(("jsonl:", "release:")):
        raise UserError(
            f"config.data.source = {source!r} is not a source; use 'seqio', 'generated', "
            "'jsonl:FILE' or 'release:FOLDER'"
        )
    if not sum(config.data.mixture.values()) and not config.evaluation.suites:
        raise UserError("config.data.mixture has only zeros; give a data set a share above 0")
    for name in config.evaluation.datasets:
        if not config.data.mixture.get(name, 0):
            raise UserError(
                f"config.evaluation.datasets: {name!r} is no data set of the mixture; name those "
                "that have a share in config.data.mixture, or give () for all"
            )
    with naming("config.evaluation.suites"):
        suite_tasks(config.evaluation.suites)
    if len(set(config.stages)) < len(config.stages):
        raise UserError(f"config.stages = {tuple(config.stages)} names a stage twice; name it once")
    if list(config.stages) != sorted(config.stages, key=FIELDS["stages"].choices.index):
        raise UserError(
            f"config.stages = {tuple(config.stages)} is out of order; the order is "
            f"{', '.join(FIELDS['stages'].choices)}"
        )
    weights = [config.reward[f"{name}_weight"] for name in ("format", "sum", "product")]
    if abs(sum(weights) - 1) > 1e-6:
        raise UserError(
            f"config.reward.format_weight + sum_weight + product_weight = {sum(weights):g}; the "
            "reward is in [0, 1] only if they make 1"
        )
    for stage in {"sft1", "sft2"} & set(config.stages):
        _check_parts(f"config.{stage}.batch_size", config[stage].batch_size, config[stage])
    for stage in {"grpo", "ppo"} & set(config.stages):
        section = config[stage]
        prompts, parts = section.prompts_per_step, section.minibatches
        name = f"config.{stage}.prompts_per_step"
        if prompts % parts:
            raise UserError(
                f"{name} = {prompts} is not a multiple of {stage}.minibatches = {parts}; change "
                "one of them"
            )
        part_name = name + (f" / minibatches = {prompts} / {parts}" if parts > 1 else "")
        _check_parts(part_name, prompts // parts, section)
        if prompts % section.rollout_parts:
            raise UserError(
                f"{name} = {prompts} cannot be sampled in rollout_parts = {section.rollout_parts} "
                "equal parts; lower rollout_parts"
            )


def _check_parts(name: str, batch: int, section: ConfigDict) -> None:
    """Refuse micro-batches of whole prompts that don't divide a batch."""
    if batch % section.micro_batch:
        raise UserError(
            f"{name} = {batch} is not a multiple of {name.split('.')[1]}.micro_batch = "
            f"{section.micro_batch}; change one of them"
        )


def check_training_mesh(config: ConfigDict) -> None:
    """Refuse a mesh that the prompts of training's programs can't be split over.

    Raises:
      UserError: names the field.
    """
    shards = config.mesh.data * config.mesh.fsdp
    for stage in config.stages:
        section = config[stage]
        if section.micro_batch % shards:
            raise UserError(
                f"config.{stage}.micro_batch = {section.micro_batch} cannot be split over "
                f"mesh.data * mesh.fsdp = {shards} devices; make it a multiple"
            )
        if stage not in ("grpo", "ppo"):
            continue
        prompts, parts = section.prompts_per_step, section.rollout_parts
        if (prompts // parts) % shards:
            raise UserError(
                f"config.{stage}.prompts_per_step = {prompts} in rollout_parts = {parts} cannot be "
                f"split over mesh.data * mesh.fsdp = {shards} devices; lower rollout_parts"
            )


def check_evaluation_mesh(config: ConfigDict, section: str = "evaluation") -> None:
    """Refuse a mesh that the prompts of an evaluation or a probe can't be split over.

    Args:
      section: "evaluation" or "probe".

    Raises:
      UserError: names the field.
    """
    size, shards = config[section].batch_size, config.mesh.data * config.mesh.fsdp
    if size % shards:
        raise UserError(
            f"config.{section}.batch_size = {size} cannot be split over mesh.data * mesh.fsdp = "
            f"{shards} devices; make it a multiple"
        )
