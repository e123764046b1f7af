"""The scripts as text: shellcheck finds nothing, and gcloud knows the flags that they use."""

import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import pytest

SCRIPTS = sorted(pathlib.Path("launch").glob("*.sh")) + sorted(
    pathlib.Path("tests/launch").glob("*.sh")
)


def test_there_are_scripts():
    assert len(SCRIPTS) >= 5


def test_shellcheck_finds_nothing():
    beside = str(pathlib.Path(sys.executable).parent)
    shellcheck = shutil.which("shellcheck", path=beside) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck isn't installed")
    done = subprocess.run(
        [shellcheck, "--external-sources", *SCRIPTS], capture_output=True, text=True, check=False
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_scripts_parse_and_can_be_run(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert script.name == "common.sh" or script.stat().st_mode & 0o111


@pytest.fixture(scope="module")
def gcloud_commands():
    """All commands and flags of the installed gcloud, from what it completes by."""
    gcloud = shutil.which("gcloud")
    table = gcloud and pathlib.Path(gcloud).resolve().parents[1] / "data/cli/gcloud_completions.py"
    if not table or not table.exists():
        pytest.skip("the Google Cloud CLI isn't installed")
    return runpy.run_path(str(table))["STATIC_COMPLETION_CLI_TREE"]


COMMANDS = {
    "compute tpus tpu-vm create": "zone project accelerator-type version spot service-account",
    "compute tpus tpu-vm describe": "zone project format",
    "compute tpus tpu-vm delete": "zone project quiet",
    "compute tpus tpu-vm ssh": "zone project worker command internal-ip ssh-flag",
    "compute tpus tpu-vm scp": "zone project worker internal-ip scp-flag",
    "alpha compute tpus tpu-vm ssh": "zone worker command tunnel-through-iap ssh-flag",
    "alpha compute tpus tpu-vm scp": "zone worker tunnel-through-iap scp-flag",
    "compute tpus queued-resources create": "zone node-id accelerator-type runtime-version spot "
    "service-account valid-until-duration",
    "compute tpus queued-resources describe": "zone project format",
    "compute tpus queued-resources delete": "zone force quiet",
    "storage rsync": "recursive exclude",
    "storage buckets describe": "format",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_gcloud_has_the_commands_and_flags(gcloud_commands, command):
    node = gcloud_commands
    known = set(node["flags"])
    for word in command.split():
        node = node["commands"][word]
        known |= set(node["flags"])
    assert {f"--{flag}" for flag in COMMANDS[command].split()} <= known


def test_the_table_holds_every_command_that_the_scripts_call():
    text = "".join(path.read_text() for path in pathlib.Path("launch").glob("*.sh"))
    called = set(
        re.findall(r"(?:call|must) ((?:compute tpus [a-z-]+|storage(?: buckets)?) [a-z]+)", text)
    )
    assert len(called) >= 6
    assert called <= set(COMMANDS)
