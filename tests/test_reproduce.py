"""The commands of docs/reproduce.md name jobs, configs and fields that there are."""

import pathlib
import re
import shlex

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.config.rewards import check_rewards

TEXT = pathlib.Path("docs/reproduce.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if "--config=" in line
]
# Settings in the text, which go with a command above.
SETTINGS = [text for text in re.findall(r"`(--config[^`]*)`", TEXT) if "=" in text]


def test_there_are_commands():
    assert len(COMMANDS) >= 10 and len(SETTINGS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_loads_its_config(command):
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    assert pathlib.Path(*words[2].split(".")).with_suffix(".py").is_file()
    config = load_config([word for word in words if word.startswith("--config")])
    check_rewards(config)
    assert "--workdir=" in command


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_fit_the_training_config(settings):
    load_config(["--config=configs/qwen2_5_7b.py", *shlex.split(settings)])
