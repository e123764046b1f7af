"""The reward that a config describes: its rule, its weights, or a function of the user's."""

import dataclasses
import hashlib
import importlib
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from recallm_jax.runtime.errors import UserError
from rl.rewards.composite import Scorer
from rl.rewards.rule import RewardRule, UserReward
from storage.errors import naming
from tasks.datasets.paper import paper_dataset
from tasks.datasets.registry import find
from tasks.scoring.reward import SETTINGS, RewardWeights


def training_rewards(config: ConfigDict) -> RewardRule:
    """Return the rule of training's rewards.

    Raises:
      UserError: the function can't be imported, or the paper has no score for a data set.
    """
    return _rule(config, "train")


def evaluation_rewards(config: ConfigDict) -> RewardRule:
    """Return the rule of evaluation's rewards: that of training under the settings of evaluation.

    The paper's evaluation has a density threshold of its own, and other settings for single data
    sets (`tasks.scoring.reward.SETTINGS`).

    Raises:
      UserError: the function can't be imported.
    """
    return _rule(config, "eval")


def check_rewards(config: ConfigDict) -> None:
    """Refuse a reward that can't be computed, before anything is trained or evaluated.

    Raises:
      UserError: the function can't be imported.
      TaskInputError: the paper has no score for a data set of the mixture.
    """
    rule = training_rewards(config)
    with naming(f"config.reward.rule = {config.reward.rule!r}"):
        for dataset, share in config.data.mixture.items():
            if share:
                rule.scorer_of(dataset)


def _rule(config: ConfigDict, use: str) -> RewardRule:
    options, settings = config.reward, SETTINGS[use]
    if use == "train":
        settings = dataclasses.replace(
            settings,
            density_limit=options.density_limit,
            many_shot_gold_mode=options.many_shot_gold_mode,
        )
    if not options.density:
        settings = dataclasses.replace(settings, density_limit=math.inf)
    settings = dataclasses.replace(
        settings,
        gold_documents=options.gold_documents,
        undress=options.rule == "ours",
        weights=RewardWeights(
            options.format_weight,
            options.sum_weight,
            options.product_weight,
            options.retrieval_share,
        ),
    )
    function = user_reward(options.function) if options.function else None
    return RewardRule(settings, scorer_of(options.rule), function)


def scorer_of(rule: str) -> Callable[[str], Scorer]:
    """Return what finds the scorer of a data set under a rule, "ours" or "paper"."""
    if rule == "ours":
        return find
    return lambda name: paper_dataset(find(name))


def user_reward(name: str) -> UserReward:
    """Return the function that `config.reward.function` names, as "module:function".

    The module is imported as Python finds it: from the current folder, or as installed.

    Raises:
      UserError: there is no such module or function, or it does not take three arguments.
    """
    where = f"config.reward.function = {name!r}"
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UserError(f'{where} must be "module:function", such as "my_rewards:score"')
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        # The module is the user's code: importing it may raise anything.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"{where} can't be imported ({reason}); start the job in the folder of {module_name}, "
            "or install it"
        ) from None
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f"{where}: {module_name} has no function {attribute}; name one of its own")
    try:
        inspect.signature(function).bind("response", (), None)
    except TypeError as error:
        raise UserError(
            f"{where} does not take (response, spans, asked): {error}; docs/training.md shows one"
        ) from None
    except ValueError:
        # Some callables of C have no signature.
        pass
    return function


def reward_file_hash(name: str) -> str:
    """Return the SHA-256 of the file of a user's reward, by which a run keeps to it.

    Raises:
      UserError: see `user_reward`.
    """
    user_reward(name)
    # A script that is running, `__main__`, has a file and no spec.
    path = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    if path is None or not Path(path).is_file():
        return "none"
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
