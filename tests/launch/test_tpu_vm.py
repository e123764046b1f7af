"""tpu_vm.sh against a recording stand-in for gcloud: exact commands, messages, what is left."""

import os
import re
import shlex
import shutil
import signal
import time

import pytest

from tests.launch.stand_ins import PLACE, QUEUED, TARGET, VM, executable, make_cloud

TYPE = "--accelerator-type=v6e-8"
DELETE = "launch/tpu_vm.sh delete --name=n --zone=us-east5-a"
TRAIN = ("python", "-m", "recallm_jax.train", "--config=configs/quickstart.py")


@pytest.fixture
def cloud(tmp_path):
    return make_cloud(tmp_path)


@pytest.fixture
def vm(tmp_path):
    """A VM of two workers, set up."""
    cloud = make_cloud(tmp_path, vm="READY")
    done = cloud.tpu_vm("setup")
    assert done.returncode == 0, done.stderr
    (tmp_path / "calls").unlink()
    return cloud


def one_error(done, *parts, code=2):
    """One line says what is wrong; no trace of the shell beside it."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1, done.stderr
    assert "unbound" not in done.stderr and ".sh: line" not in done.stderr
    for part in parts:
        assert part in errors[0]


def test_create_on_demand(cloud):
    done = cloud.tpu_vm("create", TYPE)
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == [[*VM, "create", "n", "--version=v2-alpha-tpuv6e", *PLACE, TYPE]]
    assert DELETE in done.stderr


def test_create_spot_with_a_service_account_and_further_flags(cloud):
    done = cloud.tpu_vm(
        "create",
        "--project=my-project",
        "--accelerator-type=v5p-128",
        "--spot",
        "--service-account=tpu@my-project.iam.gserviceaccount.com",
        "--create-flag=--internal-ips",
        "--create-flag=--labels=team=a b",
    )
    assert done.returncode == 0, done.stderr
    assert cloud.calls() == [
        [
            *VM,
            "create",
            "n",
            "--version=v2-alpha-tpuv5",
            *PLACE,
            "--project=my-project",
            "--accelerator-type=v5p-128",
            "--service-account=tpu@my-project.iam.gserviceaccount.com",
            "--spot",
            "--internal-ips",
            "--labels=team=a b",
        ]
    ]


def test_create_queued_waits_until_the_vm_is_there(cloud):
    cloud.change(queue=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    flags = ["--queued", "--spot", "--valid-until-duration=6h", "--poll=0"]
    done = cloud.tpu_vm("create", "--accelerator-type=v5litepod-16", *flags)
    assert done.returncode == 0, done.stderr
    look = [*QUEUED, "describe", "n", *PLACE, "--format=value(state.state)"]
    assert cloud.calls() == [
        [
            *QUEUED,
            "create",
            "n",
            "--node-id=n",
            "--runtime-version=v2-alpha-tpuv5-lite",
            *PLACE,
            "--accelerator-type=v5litepod-16",
            "--spot",
            "--valid-until-duration=6h",
        ],
        look,
        look,
        look,
    ]
    assert re.findall(r"n: ([A-Z_]+)", done.stderr) == [
        "WAITING_FOR_RESOURCES",
        "PROVISIONING",
        "ACTIVE",
    ]


def test_a_request_that_ends_without_a_vm_says_how_to_delete_it(cloud):
    cloud.change(queue=["WAITING_FOR_RESOURCES", "FAILED"])
    done = cloud.tpu_vm("create", TYPE, "--queued", "--poll=0")
    one_error(done, "FAILED", DELETE, code=1)


def test_the_environment_names_the_vm(cloud):
    names = {"TPU_VM_NAME": "e", "TPU_VM_ZONE": "us-west4-a", "TPU_VM_TYPE": "v4-8"}
    done = cloud.run("tpu_vm.sh", "create", environment=names | {"TPU_VM_PROJECT": "p-1"})
    assert done.returncode == 0, done.stderr
    place = ["--zone=us-west4-a", "--project=p-1", "--accelerator-type=v4-8"]
    assert cloud.calls() == [[*VM, "create", "e", "--version=tpu-ubuntu2204-base", *place]]


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("v6e-9", "1, 4, 8, 16, 32, 64, 128, 256"),
        ("v5p-127", "multiples of 128 up to 12288"),
        ("v5p-12416", "multiples of 128 up to 12288"),
        ("v5e-8", "v5litepod-8"),
        ("h100-8", "v5litepod-N"),
        ("v6e", "1, 4, 8, 16"),
    ],
)
def test_an_accelerator_type_that_does_not_exist(cloud, kind, remedy):
    one_error(cloud.tpu_vm("create", f"--accelerator-type={kind}"), kind, remedy)
    assert cloud.calls() == []


@pytest.mark.parametrize(
    "kind", ["v5p-8", "v5p-64", "v5p-384", "v4-4096", "v5litepod-1", "v6e-256"]
)
def test_accelerator_types_that_exist(cloud, kind):
    assert cloud.tpu_vm("create", f"--accelerator-type={kind}", "--dry-run").returncode == 0


@pytest.mark.parametrize(
    ("stderr", "code", "remedy"),
    [
        (
            'ERROR: (gcloud.compute.tpus.tpu-vm.create) {"code": 8, "message": "There is no more '
            'capacity in the zone \\"us-east5-a\\""}',
            1,
            "--queued",
        ),
        (
            'ERROR: (gcloud.compute.tpus.tpu-vm.create) {"code": 8, "message": "Quota limit '
            "'TPUV6EPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0\"}",
            2,
            "Quotas",
        ),
        (
            "ERROR: (gcloud.compute.tpus.tpu-vm.create) INVALID_ARGUMENT: the accelerator type "
            "v6e-8 is not available in zone us-east5-a",
            2,
            "gcloud compute tpus tpu-vm accelerator-types list --zone=us-east5-a",
        ),
        (
            "ERROR: (gcloud.compute.tpus.tpu-vm.create) PERMISSION_DENIED: Permission "
            "'tpu.nodes.create' denied on 'projects/p'",
            2,
            "roles/tpu.admin",
        ),
        (
            "ERROR: (gcloud.compute.tpus.tpu-vm.create) PERMISSION_DENIED: Cloud TPU API has not "
            "been used in project 1 before or it is disabled.",
            2,
            "gcloud services enable tpu.googleapis.com",
        ),
        (
            "ERROR: (gcloud.compute.tpus.tpu-vm.create) You do not currently have an active "
            "account selected.\nPlease run:\n\n  $ gcloud auth login",
            2,
            "gcloud auth login",
        ),
        (
            "ERROR: (gcloud.compute.tpus.tpu-vm.create) Error parsing [tpu].\nThe [tpu] resource "
            "is not properly specified.\nFailed to find attribute [project]. It can be set",
            2,
            "--project=PROJECT",
        ),
        ("ERROR: (gcloud.compute.tpus.tpu-vm.create) Internal error", 1, "Internal error"),
    ],
)
def test_a_failed_create_says_why_and_that_nothing_is_left(cloud, stderr, code, remedy):
    cloud.change(rules=[{"match": "create", "stderr": stderr, "code": 1}])
    done = cloud.tpu_vm("create", TYPE)
    one_error(done, remedy, code=code)
    assert "nothing is left of n" in done.stderr


@pytest.mark.parametrize(
    ("left", "words"),
    [({"vm": "CREATING"}, "VM: CREATING"), ({"queued": "FAILED"}, "queued resource: FAILED")],
)
def test_a_create_that_fails_half_way_says_how_to_delete_what_is_left(cloud, left, words):
    rule = {"match": "create", "stderr": "ERROR: Internal error", "code": 1, "set": left}
    cloud.change(rules=[rule])
    done = cloud.tpu_vm("create", TYPE, *(["--queued"] if "queued" in left else []))
    one_error(done, code=1)
    assert f"({words}); delete it: {DELETE}" in done.stderr


def test_a_name_that_is_taken_is_not_called_a_leftover(cloud):
    stderr = "ERROR: (gcloud.compute.tpus.tpu-vm.create) ALREADY_EXISTS: n already exists"
    cloud.change(vm="READY", rules=[{"match": "create", "stderr": stderr, "code": 1}])
    done = cloud.tpu_vm("create", TYPE)
    one_error(done, "already exists", DELETE)
    assert "is left" not in done.stderr


@pytest.mark.parametrize("flags", [[], ["--queued", "--poll=30"]], ids=["creating", "waiting"])
def test_an_interrupted_create_says_how_to_delete(cloud, flags):
    rules = [{"match": "tpu-vm create", "sleep": 30}]
    cloud.change(queue=["WAITING_FOR_RESOURCES"] * 9, rules=rules)
    process = cloud.start("tpu_vm.sh", "create", *TARGET, TYPE, *flags)
    with process:
        wanted = len(flags) or 1
        deadline = time.monotonic() + 20
        while len(cloud.calls()) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"n may exist or be on its way, and cost money; delete it: {DELETE}" in err


@pytest.mark.parametrize(
    ("stderr", "remedy"),
    [
        (
            "ERROR: (gcloud.storage.buckets.describe) gs://bucket not found: 404.",
            "gcloud storage buckets create gs://bucket --location=us-east5",
        ),
        (
            "ERROR: (gcloud.storage.buckets.describe) HTTPError 403: a@b.org does not have "
            "storage.buckets.get access to the Google Cloud Storage bucket.",
            "you may not use bucket gs://bucket",
        ),
    ],
)
def test_a_bucket_is_checked_before_anything_is_created(cloud, stderr, remedy):
    cloud.change(rules=[{"match": "buckets describe gs://bucket", "stderr": stderr, "code": 1}])
    one_error(cloud.tpu_vm("create", TYPE, "--bucket=gs://bucket"), remedy)
    assert cloud.verbs() == []


def test_a_missing_gcloud(cloud, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "mktemp", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    done = cloud.tpu_vm("create", TYPE, environment={"PATH": str(tools)})
    one_error(done, "gcloud isn't on PATH", "https://cloud.google.com/sdk/docs/install")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["launch"], "unknown command 'launch'"),
        (["create", "--zone=us-east5-a", TYPE], "--name=NAME"),
        (["create", "--name=n", TYPE], "--zone=ZONE"),
        (["create", "--name=n", "--zone=us-east5", TYPE], "--zone=us-east5 is no zone"),
        (["create", "--name=My_VM", "--zone=us-east5-a", TYPE], "--name=My_VM"),
        (["create", *TARGET], "--accelerator-type=TYPE"),
        (["create", *TARGET, TYPE, "--spott"], "unknown flag --spott"),
        (["create", *TARGET, TYPE, "--zone"], "--zone=VALUE"),
        (["create", *TARGET, "v6e-8"], "unexpected argument 'v6e-8'"),
        (["create", *TARGET, TYPE, "--no-wait"], "add --queued"),
        (["create", *TARGET, TYPE, "--queued", "--poll=soon"], "--poll=soon"),
        (["setup", *TARGET, "--spot"], "unknown flag --spot"),
        (["setup", *TARGET, "--iap", "--internal-ip"], "exclude each other"),
        (["run", *TARGET], "which job?"),
        (["run", *TARGET, "--worker=two", "--", "true"], "--worker=two"),
        (["fetch", *TARGET], "--workdir="),
        (["logs", *TARGET, "--", "true"], "nothing behind --"),
    ],
)
def test_bad_arguments(cloud, arguments, part):
    one_error(cloud.run("tpu_vm.sh", *arguments), part)
    assert cloud.calls() == []


def test_setup_copies_the_commit_to_all_workers_and_installs_it(cloud):
    cloud.change(vm="READY")
    done = cloud.tpu_vm("setup")
    assert done.returncode == 0, done.stderr
    copy, install = cloud.calls()
    assert copy[:4] == [*VM, "scp"]
    assert copy[5:] == ["n:recallm-jax.new.tar.gz", *PLACE, "--worker=all"]
    assert install[:-1] == [*VM, "ssh", "n", *PLACE, "--worker=all"]
    assert install[-1].endswith(" && recallm-jax/launch/bootstrap.sh")
    for worker in (0, 1):
        home = cloud.home(worker)
        assert (home / "recallm-jax" / "launch" / "job.sh").exists()
        assert "jax[tpu] --constraint constraints.txt" in (home / "pip").read_text()


def test_setup_again_replaces_the_code_and_keeps_what_runs_wrote(vm):
    clone = vm.home(1) / "recallm-jax"
    (clone / "runs").mkdir()
    (clone / "runs" / "kept").touch()
    # The next commit lacks a file, and changes the requirements.
    assert (clone / "launch" / "README.md").exists()
    (vm.clone / "launch" / "README.md").unlink()
    (vm.clone / "constraints.txt").write_text("jax==0.10.2\n")
    vm.commit()
    before = (vm.home(1) / "pip").read_text()
    assert vm.tpu_vm("setup").returncode == 0
    assert not (clone / "launch" / "README.md").exists()
    assert (clone / "runs" / "kept").exists()
    assert (vm.home(1) / "pip").read_text() == 2 * before


def test_setup_of_what_is_there_installs_nothing(vm):
    before = (vm.home() / "pip").read_text()
    done = vm.tpu_vm("setup")
    assert "worker-0: already set up" in done.stdout
    assert (vm.home() / "pip").read_text() == before


def test_setup_refuses_uncommitted_changes(cloud):
    cloud.change(vm="READY")
    (cloud.clone / "setup.py").write_text("raise SystemExit\n")
    (cloud.clone / "new.py").touch()
    one_error(cloud.tpu_vm("setup"), "uncommitted changes (2 files)", "--committed")
    assert cloud.calls() == []
    assert cloud.tpu_vm("setup", "--committed").returncode == 0
    assert "raise SystemExit" not in (cloud.home() / "recallm-jax" / "setup.py").read_text()


def test_a_worker_that_cannot_install_says_so(cloud):
    cloud.change(vm="READY")
    python = (cloud.folder / "worker-bin" / "python3.11").read_text()
    broken = python.replace('"-m pip "*)', '"-m pip "*) exit 1 ;; "")')
    executable(cloud.folder / "worker-bin" / "python3.11", broken)
    done = cloud.tpu_vm("setup")
    one_error(done, "worker worker-0: pip could not install")


def test_copying_to_several_workers_needs_an_agent(cloud):
    stderr = "ERROR: (gcloud.compute.tpus.tpu-vm.scp) SSH Key is not present in the SSH agent."
    cloud.change(vm="READY", rules=[{"match": "scp", "stderr": stderr, "code": 1}])
    one_error(cloud.tpu_vm("setup"), "ssh-add ~/.ssh/google_compute_engine")


def wait_for_end(cloud, workers=2):
    """Wait until the jobs of all workers have ended."""
    deadline = time.monotonic() + 20
    states = [cloud.home(worker) / "recallm-jax-job" / "state" for worker in range(workers)]
    while time.monotonic() < deadline:
        if all("ended" in state.read_text() or "stopped" in state.read_text() for state in states):
            return
        time.sleep(0.02)
    pytest.fail("the jobs go on")


OVERRIDES = (
    "--config.stages=('grpo',)",
    '--config.data.dir=/data/a "b"  c',
    "--config.model.weights=$HOME/`w`\\x",
    "--config.note=a;b&c|d>e*?~#!",
    "--config.lines=one\ntwo",
    "--config.empty=",
)


def test_a_job_starts_on_all_workers_with_its_arguments_unharmed(vm):
    workdir = "--workdir=gs://b/runs/a"
    done = vm.tpu_vm("run", "--", *TRAIN, workdir, *OVERRIDES)
    assert done.returncode == 0, done.stderr
    wait_for_end(vm)
    for worker in (0, 1):
        assert vm.job_arguments(worker) == [*TRAIN[1:], workdir, *OVERRIDES, "--distributed"]
    assert vm.verbs() == ["status", "check", "start"]
    assert vm.changes()[0] == [
        *VM,
        "ssh",
        "n",
        *PLACE,
        "--worker=all",
        "--command=recallm-jax/launch/job.sh status",
    ]
    assert vm.changes()[1][-1] == "--command=recallm-jax/launch/job.sh check gs://b/runs/a"
    assert vm.changes()[2][-1].startswith(
        "--command=recallm-jax/launch/job.sh start --restarts=3 --pause=150 -- python -m "
    )


def test_one_host_runs_one_process(tmp_path):
    cloud = make_cloud(tmp_path, vm="READY", workers=1)
    assert cloud.tpu_vm("setup").returncode == 0
    done = cloud.tpu_vm("run", "--restarts=5", "--", *TRAIN, "--workdir=runs/a")
    assert done.returncode == 0, done.stderr
    wait_for_end(cloud, workers=1)
    assert cloud.job_arguments() == [*TRAIN[1:], "--workdir=runs/a"]
    assert "start --restarts=5 --pause=10 -- " in cloud.changes()[-1][-1]


def test_a_job_of_one_process_runs_on_one_worker(vm):
    report = ["python", "-m", "recallm_jax.report", "--workdir=gs://b/runs/a"]
    done = vm.tpu_vm("run", "--worker=1", "--", *report)
    assert done.returncode == 0, done.stderr
    wait_for_end_of(vm, 1)
    assert vm.job_arguments(1) == report[1:]
    assert not (vm.home(0) / "argv").exists()


def wait_for_end_of(cloud, worker):
    deadline = time.monotonic() + 20
    state = cloud.home(worker) / "recallm-jax-job" / "state"
    while "ended" not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (["recallm_jax.report"], "recallm_jax.report runs as one process"),
        (["recallm_jax.evaluate", "--rescore"], "recallm_jax.evaluate --rescore runs as one"),
    ],
)
def test_jobs_of_one_process_are_refused_on_several_hosts(cloud, job, words):
    cloud.change(vm="READY")
    done = cloud.tpu_vm("run", "--", "env", "A=b", "python", "-m", *job, "--workdir=gs://b/a")
    one_error(done, words, "--worker=0")
    assert cloud.changes() == []


@pytest.mark.parametrize(
    ("job", "added"),
    [
        (["-m", "recallm_jax.evaluate"], ["--distributed"]),
        (["-m", "recallm_jax.probe"], ["--distributed"]),
        (["-m", "recallm_jax.evaluate", "--shard=0/2"], []),
        (["-m", "recallm_jax.train", "--distributed"], []),
        (["-c", "import recallm_jax.train"], []),
    ],
)
def test_jobs_of_several_processes_find_each_other(cloud, job, added):
    words = ["python", *job]
    done = cloud.tpu_vm("run", "--dry-run", "--accelerator-type=v6e-16", "--", *words)
    started = done.stdout.splitlines()[-1]
    assert started.endswith(shlex.join([*words, *added]).replace("'", "'\\''") + "'")


def test_several_hosts_need_one_workdir(vm):
    done = vm.tpu_vm("run", "--", *TRAIN, "--workdir=runs/a")
    one_error(done, "--workdir=runs/a", "gs://")
    assert vm.changes() == []


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("1", ["tpu@p.iam.gserviceaccount.com", "gs://b/runs/a", "roles/storage.objectUser"]),
        ("3", ["bucket gs://b doesn't exist", "gcloud storage buckets create gs://b"]),
    ],
)
def test_a_bucket_that_the_vm_may_not_write_to(vm, code, parts):
    (vm.home() / "no-bucket").write_text(code)
    executable(vm.folder / "worker-bin" / "curl", "#!/bin/sh\necho tpu@p.iam.gserviceaccount.com\n")
    done = vm.tpu_vm("run", "--", *TRAIN, "--workdir", "gs://b/runs/a")
    one_error(done, *parts)
    assert vm.verbs() == ["status", "check"]


def test_a_second_job_is_refused_and_the_first_can_be_ended(vm):
    for worker in (0, 1):
        (vm.home(worker) / "codes").write_text("hang\n")
    assert vm.tpu_vm("run", "--", *TRAIN).returncode == 0
    done = vm.tpu_vm("run", "--", *TRAIN)
    one_error(done, "a job runs already on n", "launch/tpu_vm.sh stop --name=n --zone=us-east5-a")
    shown = vm.tpu_vm("status").stdout.splitlines()
    assert shown[:2] == ["queued resource: none", "VM: READY"]
    command = "command=python -m recallm_jax.train --config=configs/quickstart.py --distributed"
    for worker, line in enumerate(shown[2:]):
        assert line == f"worker=worker-{worker} state=running code=- restarts=0 {command}"
    done = vm.tpu_vm("stop", "--grace=20")
    assert done.stdout.splitlines() == ["worker=worker-0 stopped", "worker=worker-1 stopped"]
    assert "state=stopped code=143" in vm.tpu_vm("status").stdout


def test_a_start_that_fails_on_some_workers_says_how_to_end_the_others(vm):
    rule = {"match": "job.sh start", "code": 255, "stderr": "ERROR: Could not SSH into worker 1"}
    vm.change(rules=[rule])
    done = vm.tpu_vm("run", "--", *TRAIN)
    one_error(done, "can't be reached", code=1)
    assert "end it there: launch/tpu_vm.sh stop --name=n" in done.stderr


def test_running_without_a_vm(cloud):
    one_error(cloud.tpu_vm("run", "--", *TRAIN), "there is no VM n", "launch/tpu_vm.sh create")


def test_running_before_setup(cloud):
    cloud.change(vm="READY")
    done = cloud.tpu_vm("run", "--", *TRAIN)
    one_error(done, "n is not set up", "launch/tpu_vm.sh setup --name=n --zone=us-east5-a")


def test_a_worker_that_died(vm):
    vm.change(unreachable=["worker-1"])
    done = vm.tpu_vm("status")
    assert "worker=worker-0 state=none" in done.stdout
    one_error(done, "a worker can't be reached", f"create it anew: {DELETE}", code=1)


def test_logs_of_one_worker_and_of_all(vm):
    one_error(vm.tpu_vm("logs"), "worker worker-0: there is no log yet")
    assert vm.tpu_vm("run", "--", *TRAIN).returncode == 0
    wait_for_end(vm)
    one = vm.tpu_vm("logs", "--lines=2").stdout.splitlines()
    assert one[0] == "a line of the job" and "ended with exit code 0" in one[1]
    every = vm.tpu_vm("logs", "--worker=all", "--no-follow").stdout
    assert "worker-0: a line of the job" in every and "worker-1: a line of the job" in every


def test_logs_follow_a_job_until_it_ends(vm):
    (vm.home() / "codes").write_text("hang\n")
    assert vm.tpu_vm("run", "--worker=0", "--", *TRAIN).returncode == 0
    with vm.start("tpu_vm.sh", "logs", *TARGET) as following:
        assert following.stdout is not None
        first = [following.stdout.readline() for _ in range(2)]
        assert first[1] == "a line of the job\n"
        assert vm.tpu_vm("stop").returncode == 0
        rest, _ = following.communicate(timeout=20)
    assert "ended with exit code 143" in rest


def test_fetch_from_a_bucket_leaves_the_checkpoints_there(cloud):
    done = cloud.tpu_vm("fetch", "--workdir=gs://b/runs/a/", "--to=here/a")
    assert done.returncode == 0, done.stderr
    words = ["storage", "rsync", "--recursive"]
    assert cloud.calls() == [[*words, "--exclude=(.*/)?checkpoints/.*", "gs://b/runs/a", "here/a"]]
    assert cloud.tpu_vm("fetch", "--workdir=gs://b/runs/a", "--checkpoints").returncode == 0
    assert cloud.calls()[1] == [*words, "gs://b/runs/a", "runs/fetched"]


@pytest.mark.parametrize(
    ("stderr", "remedy"),
    [
        ("ERROR: (gcloud.storage.rsync) HTTPError 403: a does not have access", "objectViewer"),
        ("ERROR: (gcloud.storage.rsync) gs://b not found: 404.", "gcloud storage ls gs://b/runs"),
    ],
)
def test_fetch_from_a_bucket_that_cannot_be_read(cloud, stderr, remedy):
    cloud.change(rules=[{"match": "rsync", "stderr": stderr, "code": 1}])
    one_error(cloud.tpu_vm("fetch", "--workdir=gs://b/runs/a"), "gs://b/runs/a", remedy)


def test_fetch_from_worker_0(vm):
    run = vm.home() / "recallm-jax" / "runs" / "a b"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "large").touch()
    (run / "report.html").write_text("page")
    done = vm.tpu_vm("fetch", "--workdir=runs/a b", "--to=here")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (vm.folder / "here").iterdir()] == ["report.html"]
    assert vm.verbs() == ["ssh", "scp"]


def test_delete_removes_the_request_and_its_vm_and_looks_again(cloud):
    cloud.change(queued="ACTIVE", vm="READY")
    done = cloud.tpu_vm("delete")
    assert done.returncode == 0, done.stderr
    assert cloud.changes() == [[*QUEUED, "delete", "n", *PLACE, "--force", "--quiet"]]
    assert cloud.model()["queued"] is None and cloud.model()["vm"] is None
    assert "nothing is left of n in us-east5-a" in done.stderr
    assert cloud.calls()[-2:] == [
        [*QUEUED, "describe", "n", *PLACE, "--format=value(state.state)"],
        [*VM, "describe", "n", *PLACE, "--format=value(state)"],
    ]


def test_delete_removes_a_vm_that_was_in_no_queue(cloud):
    cloud.change(vm="PREEMPTED")
    assert cloud.tpu_vm("delete").returncode == 0
    assert cloud.changes() == [[*VM, "delete", "n", *PLACE, "--quiet"]]


def test_delete_says_what_is_still_there(cloud):
    cloud.change(vm="READY", rules=[{"match": "delete", "times": 1, "code": 0}])
    done = cloud.tpu_vm("delete", "--tries=1", "--poll=0")
    one_error(done, "n is still there (queued resource: none, VM: READY)", DELETE, code=1)


def test_identity_aware_proxy_takes_the_alpha_commands(vm):
    assert vm.tpu_vm("status", "--iap").returncode == 0
    call = vm.calls()[-1]
    assert call[:5] == ["alpha", *VM, "ssh"] and "--tunnel-through-iap" in call


STEPS = {
    "create": [TYPE, "--bucket=gs://bucket"],
    "create --queued": [TYPE, "--spot"],
    "setup": [],
    "run": ["--accelerator-type=v5p-128", "--", *TRAIN, "--workdir=gs://b/a", *OVERRIDES[:2]],
    "status": [],
    "logs": ["--worker=all"],
    "stop": [],
    "fetch": ["--workdir=gs://b/a"],
    "delete": [],
}


@pytest.mark.parametrize("step", STEPS)
def test_a_dry_run_prints_the_commands_and_runs_none(cloud, step):
    command, *flags = step.split()
    done = cloud.tpu_vm(command, *flags, "--dry-run", *STEPS[step])
    assert done.returncode == 0 and done.stderr == ""
    assert cloud.calls() == []
    printed = done.stdout.splitlines()
    assert printed and all(line.startswith("gcloud ") for line in printed)


def test_what_a_dry_run_prints_is_what_the_run_does(vm):
    """Pasted into a shell, the printed commands do the same calls."""
    job = ["run", "--accelerator-type=v6e-16", "--", *TRAIN, "--workdir=gs://b/a", *OVERRIDES[:4]]
    printed = vm.tpu_vm(job[0], "--dry-run", *job[1:]).stdout
    assert vm.calls() == []
    done = vm.run_shell(printed)
    assert done.returncode == 0, done.stderr
    pasted = vm.calls()
    wait_for_end(vm)
    (vm.folder / "calls").unlink()
    assert vm.tpu_vm(*job).returncode == 0
    wait_for_end(vm)
    assert vm.calls() == pasted
