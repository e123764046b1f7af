"""launch/README.md: its commands are those of the scripts, and it names all of their flags."""

import pathlib
import re

import pytest

from tests.launch.stand_ins import make_cloud

TEXT = pathlib.Path("launch/README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
# Messages of gcloud in the troubleshooting table; the tests of tpu_vm.sh cover the reactions.
OF_GCLOUD = {"Quota … exceeded", "no more capacity in the zone"}
EXPORTS = [line for line in BLOCKS.splitlines() if line.startswith("export ")]
COMMANDS = [line for line in BLOCKS.splitlines() if line.startswith("launch/")]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    return make_cloud(tmp_path_factory.mktemp("cloud"))


def test_there_are_commands_to_test():
    called = set(re.findall(r"launch/tpu_vm\.sh (\w+)", "\n".join(COMMANDS)))
    assert called >= {"create", "setup", "run", "logs", "fetch", "delete"}
    assert any(line.startswith("launch/supervise.sh") for line in COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_can_be_run(cloud, line):
    """Pasted after its exports, each command of the README does a dry run."""
    script, space, rest = re.match(r"(\S+(?: [a-z]+)?)( ?)(.*)", line).groups()
    text = "\n".join([*EXPORTS, f"cd {cloud.clone}", f"{script} --dry-run{space}{rest}"])
    done = cloud.run_shell(text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gcloud ") and cloud.calls() == []


def test_every_flag_is_in_the_readme():
    scripts = [pathlib.Path(f"launch/{name}.sh").read_text() for name in ("tpu_vm", "supervise")]
    known = " ".join(re.findall(r'parse_flags "([^"]*)"', "\n".join(scripts))).split()
    flags = {flag.removesuffix("=") for flag in known} - {"--"} | {"name", "zone", "project"}
    named = set(re.findall(r"`--([a-z-]+)", TEXT))
    assert len(flags) > 25
    assert flags <= named
    elsewhere = {
        "rescore",
        "merge",
        "label",
        "config",
        "workdir",
        "distributed",
        "checkpoints",
        "shard",
    }
    assert named - flags - elsewhere == {"dry-run", "help", "profile"}


def test_the_troubleshooting_table_quotes_what_the_scripts_say():
    scripts = "".join(path.read_text() for path in pathlib.Path("launch").glob("*.sh"))
    table = TEXT.partition("## Troubleshooting")[2]
    lines = [re.match(r"\| (in the job's log: )?(.*?) \|", row) for row in table.splitlines()]
    own = [match[2] for match in lines[4:] if match and not match[1]]
    quoted = [part for cell in own for part in re.findall(r"`([^`]+)`", cell)]
    assert len(quoted) > 12
    for words in set(quoted) - OF_GCLOUD:
        parts = [part.strip() for part in words.split("…")]
        # Names of variables stand where the table has …, or a type.
        known = all(re.sub(r"v6e", "$generation", part) in scripts for part in parts if part)
        assert known, words
