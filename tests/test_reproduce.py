"""The settings in the text of docs/reproduce.md fit the config; test_readme.py has the commands."""

import pathlib
import re
import shlex

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.config.rewards import check_rewards

TEXT = pathlib.Path("docs/reproduce.md").read_text(encoding="utf-8")
SETTINGS = [text for text in re.findall(r"`(--config[^`]*)`", TEXT) if "=" in text]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_fit_the_training_config(settings):
    assert len(SETTINGS) >= 4
    check_rewards(load_config(["--config=configs/qwen2_5_7b.py", *shlex.split(settings)]))
