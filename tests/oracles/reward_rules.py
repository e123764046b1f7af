"""The rules of the default config's rewards."""

from rl.rewards.rule import RewardRule
from tasks.datasets.registry import find
from tasks.scoring.reward import SETTINGS

TRAIN = RewardRule(SETTINGS["train"], find)
EVAL = RewardRule(SETTINGS["eval"], find)
