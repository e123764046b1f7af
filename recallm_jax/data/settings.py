"""The settings of a config's data sets, and their shares of the mixture."""

import numpy as np
from ml_collections import ConfigDict

from recallm_jax.runtime.errors import UserError
from storage.errors import naming
from storage.files import as_path, read_text
from tasks.prompts.context import generator
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import Tokenizer
from tasks.sources.release import has_split, longest_prompt

# What `data.source` begins with where the paper's data set is read.
RELEASE = "release:"
# System prompts that are no files.
OURS, NONE = "ours", "none"


def task_settings(config: ConfigDict) -> TaskSettings:
    """Return the settings of the synthetic tasks that a config asks for."""
    return TaskSettings(
        target_length=config.data.target_length,
        value_length=config.data.value_length,
        formats=tuple(config.data.formats),
        terms=tuple(config.data.terms),
        operators=config.data.operators,
        data_dir=config.data.dir,
        corpus=config.data.corpus,
        system=system_prompt(config),
        thinking=config.data.thinking,
        span_alignment=config.decoding.span_alignment,
        min_recall_length=config.decoding.min_recall_length,
        max_recall_length=config.decoding.max_recall_length,
    )


def system_prompt(config: ConfigDict) -> str | None:
    """Return the system prompt of a config's file, "" for none, or None for ours.

    Raises:
      UserError: the file can't be read.
    """
    name = config.data.system_prompt
    if name in (OURS, NONE):
        return None if name == OURS else ""
    try:
        with naming(f"config.data.system_prompt = {name!r}"):
            return read_text(as_path(name)).strip()
    except (OSError, ValueError) as error:
        raise UserError(
            f"config.data.system_prompt = {name!r} can't be read ({error}); give a text file, "
            f"{OURS!r} or {NONE!r}"
        ) from None


def check_system_prompt(config: ConfigDict, tokenizer: Tokenizer) -> None:
    """Refuse a system prompt that would end or begin a turn.

    Raises:
      UserError: the file can't be read, or holds such a token.
    """
    if found := tokenizer.find_control(system_prompt(config) or ""):
        raise UserError(
            f"config.data.system_prompt = {config.data.system_prompt!r} holds the token {found}, "
            "which would end or begin a turn; take it out of the file"
        )


def evaluated_lengths(config: ConfigDict, dataset: str) -> list[int]:
    """Return the lengths at which a data set is evaluated: all, or those that the release has."""
    released = config.data.source.startswith(RELEASE)
    return [n for n in config.evaluation.lengths if not released or has_split(dataset, n)]


def prompt_room(config: ConfigDict, length: int) -> int:
    """Return the most tokens of a validation prompt at a length; the release's may be longer."""
    return longest_prompt(length) if config.data.source.startswith(RELEASE) else length


def mixture_datasets(config: ConfigDict) -> list[str]:
    """Return the data sets that have a share in the mixture, by name."""
    return sorted(name for name, rate in config.data.mixture.items() if rate > 0)


def evaluated_datasets(config: ConfigDict) -> list[str]:
    """Return the data sets of the mixture that are evaluated: those that are named, or all."""
    named = config.evaluation.datasets
    return [name for name in mixture_datasets(config) if name in named or not named]


def mixture_rates(config: ConfigDict) -> dict[str, float]:
    """Return the data sets of the mixture by name, each with its share^(1 / temperature).

    Raises:
      UserError: the mixture is empty, as in a config that only evaluates suites.
    """
    datasets = mixture_datasets(config)
    if not datasets:
        raise UserError(
            "config.data.mixture has only zeros: there is nothing to train on; give a data set a "
            "share above 0"
        )
    temperature = config.data.temperature
    return {name: config.data.mixture[name] ** (1.0 / temperature) for name in datasets}


def drawn_dataset(config: ConfigDict, number: int) -> str:
    """Return the data set of training record `number`."""
    rates = mixture_rates(config)
    shares = np.array(list(rates.values())) / sum(rates.values())
    return list(rates)[generator("mixture", config.seed, number).choice(len(shares), p=shares)]
