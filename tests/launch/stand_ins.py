"""A user's machine and a cloud to test launch/ with: a small clone, and a stand-in for gcloud."""

import ast
import atexit
import dataclasses
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
TARGET = ["--name=n", "--zone=us-east5-a"]
PLACE = ["--zone=us-east5-a"]
VM = ["compute", "tpus", "tpu-vm"]
SSH_OPTIONS = ["-oConnectTimeout=15", "-oServerAliveInterval=15", "-oServerAliveCountMax=4"]
QUEUED = ["compute", "tpus", "queued-resources"]
TYPE = "--accelerator-type=v6e-8"
DELETE = "launch/tpu_vm.sh delete --name=n --zone=us-east5-a"
TRAIN = ("python", "-m", "recallm_jax.train", "--config=configs/quickstart.py")
# The arguments of supervise.sh, of a VM and of its job.
JOB = ("--", *TRAIN, "--workdir=gs://b/runs/a", "--config.stages=('grpo',)")
FLAGS = ("--accelerator-type=v6e-16", "--spot", "--queued", "--poll=0", "--pause=0")
UP = ["create", "scp", "bootstrap", "status", "check", "start"]
# The message of gcloud 528 without a network, when its token has run out.
OFFLINE = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.describe) There was a problem refreshing your current auth "
    "tokens: HTTPSConnectionPool(host='oauth2.googleapis.com', port=443): Max retries exceeded "
    'with url: /token (Caused by NameResolutionError("<urllib3.connection.HTTPSConnection object>: '
    "Failed to resolve 'oauth2.googleapis.com' ([Errno -3] Temporary failure in name resolution)\""
    "))\nPlease run:\n\n  $ gcloud auth login\n\nto obtain new credentials."
)
OVERRIDES = (
    "--config.stages=('grpo',)",
    '--config.data.dir=/data/a "b"  c',
    "--config.model.weights=$HOME/`w`\\x",
    "--config.note=a;b&c|d>e*?~#!",
    "--config.lines=one\ntwo",
    "--config.empty=",
)


def executable(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def output_of(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Return the output of a process when it ends; one that does not end in time is killed."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A folder with the model of a cloud, a clone of the project, and a PATH of stand-ins."""

    folder: pathlib.Path

    @property
    def clone(self) -> pathlib.Path:
        return self.folder / "clone"

    def model(self) -> dict[str, Any]:
        return ast.literal_eval((self.folder / "cloud").read_text())

    def change(self, **values: Any) -> None:
        (self.folder / "cloud").write_text(repr(self.model() | values))

    def home(self, worker: int = 0) -> pathlib.Path:
        home = self.folder / f"worker-{worker}"
        home.mkdir(exist_ok=True)
        return home

    def environment(self) -> dict[str, str]:
        tools = f"{self.folder / 'bin'}:/usr/bin:/bin"
        return {
            "HOME": str(self.folder),
            "PATH": tools,
            "STAND_IN": str(self.folder),
            "WORKER_PATH": f"{self.folder / 'worker-bin'}:/usr/bin:/bin",
        }

    def start(self, script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.clone / "launch" / script, *arguments],
            cwd=self.folder,
            env=self.environment() | options.pop("environment", {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )

    def run(self, script: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        with self.start(script, *arguments, **options) as process:
            out, err = output_of(process, 60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def tpu_vm(self, command: str, *arguments: str, **options: Any):
        return self.run("tpu_vm.sh", command, *TARGET, *arguments, **options)

    def run_git(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        git = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org", *arguments]
        return subprocess.run(git, cwd=self.clone, check=True, capture_output=True, text=True)

    def run_shell(self, text: str) -> subprocess.CompletedProcess[str]:
        """Paste commands into a shell of the user's machine."""
        return subprocess.run(
            ["sh", "-e"],
            input=text,
            env=self.environment(),
            check=False,
            capture_output=True,
            text=True,
        )

    def commit(self) -> None:
        """Commit the files of the clone as its only commit."""
        shutil.rmtree(self.clone / ".git", ignore_errors=True)
        self.run_git("init", "-q", "--template=")
        self.run_git("add", ".")
        self.run_git("commit", "-q", "-m", "First")

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return (
            [ast.literal_eval(line) for line in path.read_text().splitlines()]
            if path.exists()
            else []
        )

    def changes(self) -> list[list[str]]:
        """The calls that change something."""
        return [call for call in self.calls() if "describe" not in call]

    def verbs(self) -> list[str]:
        """The changes in order: create, delete, and the commands for workers by their script."""
        verbs = []
        for call in self.changes():
            script = re.findall(r"launch/(bootstrap|job\.sh \w+)", call[-1])
            verb = script[-1] if script else next(verb for verb in call if verb in VERBS)
            verbs.append(verb.removeprefix("job.sh "))
        return verbs

    def job_arguments(self, worker: int = 0) -> list[str]:
        """The arguments of each job of a worker, one after the other."""
        return (self.home(worker) / "argv").read_text().split("\0")[:-1]


VERBS = ("create", "delete", "scp", "ssh", "rsync", "buckets")


@functools.cache
def first_clone() -> pathlib.Path:
    """Return a cloud's folder that holds a small clone only; made once a process, to be copied."""
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    cloud = Cloud(folder)
    shutil.copytree(ROOT / "launch", cloud.clone / "launch")
    for name in ("setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, cloud.clone / name)
    cloud.commit()
    return folder


def make_cloud(folder: pathlib.Path, **values: Any) -> Cloud:
    """Return a cloud in an empty folder: no VM, two workers when there is one."""
    cloud = Cloud(folder)
    shutil.copytree(first_clone(), folder, dirs_exist_ok=True)
    stand_in = f"exec {sys.executable} -S -E {HERE / 'gcloud_stand_in.py'}"
    executable(folder / "bin" / "gcloud", f'#!/bin/sh\n{stand_in} "$@"\n')
    python = (HERE / "python_stand_in.sh").read_text()
    executable(folder / "worker-bin" / "python3.11", python)
    executable(folder / "worker-bin" / "sudo", '#!/bin/sh\necho "$@" >>"$HOME/sudo"\n')
    model = {"queued": None, "vm": None, "queue": ["ACTIVE"], "states": [], "workers": 2}
    (folder / "cloud").write_text(repr(model | {"rules": []} | values))
    return cloud


def one_error(done: subprocess.CompletedProcess[str], *parts: str, code: int = 2) -> None:
    """Hold a script to one line that says what is wrong, and no trace of the shell beside it."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1, done.stderr
    assert "unbound" not in done.stderr and ".sh: line" not in done.stderr
    for part in parts:
        assert part in errors[0]


def wait_for_end(cloud: Cloud, workers: tuple[int, ...] = (0, 1)) -> None:
    """Wait until the jobs of these workers have ended."""
    deadline = time.monotonic() + 20
    states = [cloud.home(worker) / "recallm-jax-job" / "state" for worker in workers]
    while not all(re.search("ended|stopped", state.read_text()) for state in states):
        assert time.monotonic() < deadline, "the jobs go on"
        time.sleep(0.02)


def supervise(
    cloud: Cloud, *flags: str, job: tuple[str, ...] = JOB, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run supervise.sh to its end."""
    return cloud.run("supervise.sh", *TARGET, *FLAGS, *flags, *job, **options)


def without_looks(cloud: Cloud) -> list[str]:
    """Return the actions, without the looks at the job between them."""
    verbs = cloud.verbs()
    return [
        verb
        for i, verb in enumerate(verbs)
        if verb != "status" or verbs[i + 1 : i + 2] == ["check"]
    ]
