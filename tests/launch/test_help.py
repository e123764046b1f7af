"""Each script of launch/ explains itself, whole, with code 0, and knows the flags that it names."""

import re
import subprocess

import pytest

from tests.launch.stand_ins import ROOT

LAUNCH = ROOT / "launch"
COMMANDS = ("create", "setup", "run", "status", "logs", "stop", "fetch", "delete")
# How the text of each script ends.
LAST = {
    "tpu_vm.sh": "TPU_VM_TYPE takes the place of --accelerator-type.",
    "supervise.sh": "print every gcloud command, and run none",
    "job.sh": "and the lock that the loop and the job hold while they live.",
    "bootstrap.sh": "PYTHON=/path/to/python3 chooses the interpreter",
}
ASKED = [
    *(("tpu_vm.sh", *rest) for rest in (("--help",), ("-h",), ("help",))),
    *(("tpu_vm.sh", command, "--help") for command in COMMANDS),
    ("tpu_vm.sh", "create", "--name=n", "--help"),
    *(("supervise.sh", flag) for flag in ("--help", "-h")),
    *((script, "--help") for script in ("job.sh", "bootstrap.sh")),
]


def run(script, *arguments):
    return subprocess.run(
        [LAUNCH / script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("arguments", ASKED, ids=" ".join)
def test_help_is_whole_with_code_0(arguments):
    done = run(*arguments)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.endswith(f"{LAST[arguments[0]]}\n")


@pytest.mark.parametrize("script", ["tpu_vm.sh", "supervise.sh"])
def test_help_names_every_flag_and_no_other(script):
    text = (LAUNCH / script).read_text()
    declared = re.findall(r'parse_flags "([^"]*)"', text)
    known = {name.rstrip("=") for names in declared for name in names.split()} - {"--"}
    known |= {"name", "project", "zone", "dry-run"}
    # Those of the job belong to no script, unless the script has them too.
    shown = re.sub(r"(?<!-)-- python.*|their --workdir", "", run(script, "--help").stdout)
    assert set(re.findall(r"--([a-z][a-z-]*)", shown)) == known


def test_what_follows_the_dashes_is_the_jobs_own():
    done = run("tpu_vm.sh", "run", "--zone=us-east5-a", "--", "python", "x.py", "--help")
    assert done.returncode == 2 and "which VM? give --name" in done.stderr


@pytest.mark.parametrize("script", ["tpu_vm.sh", "supervise.sh", "job.sh", "bootstrap.sh"])
def test_an_unknown_argument_leads_to_the_help(script):
    done = run(script, "nonsense")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "nonsense" in done.stderr
