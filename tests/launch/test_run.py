"""tpu_vm.sh run, stop and status: jobs on all workers or one, and when they are refused."""

import shlex

import pytest

from tests.launch.stand_ins import (
    DELETE,
    OVERRIDES,
    PLACE,
    SSH_OPTIONS,
    TRAIN,
    VM,
    executable,
    make_cloud,
    one_error,
    wait_for_end,
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
        *[f"--ssh-flag={option}" for option in SSH_OPTIONS],
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
    wait_for_end(cloud, (0,))
    assert cloud.job_arguments() == [*TRAIN[1:], "--workdir=runs/a"]
    assert "start --restarts=5 --pause=10 -- " in cloud.changes()[-1][-1]


def test_a_job_of_one_process_runs_on_one_worker(vm):
    report = ["python", "-m", "recallm_jax.report", "--workdir=gs://b/runs/a"]
    done = vm.tpu_vm("run", "--worker=1", "--", *report)
    assert done.returncode == 0, done.stderr
    wait_for_end(vm, (1,))
    assert vm.job_arguments(1) == report[1:]
    assert not (vm.home(0) / "argv").exists()


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (["-m", "recallm_jax.report"], ["recallm_jax.report runs as one process", "--worker=0"]),
        (["-mrecallm_jax.report"], ["recallm_jax.report runs as one process", "--worker=0"]),
        (
            ["-m", "recallm_jax.evaluate", "--rescore"],
            ["--rescore runs as one process", "--worker=0"],
        ),
        (
            ["-m", "recallm_jax.evaluate", "--shard=0/2"],
            ["--shard would be the same share on every"],
        ),
    ],
)
def test_jobs_of_one_process_are_refused_on_several_hosts(cloud, job, words):
    cloud.change(vm="READY")
    done = cloud.tpu_vm("run", "--", "env", "A=b", "python", *job, "--workdir=gs://b/a")
    one_error(done, *words)
    assert cloud.changes() == []


@pytest.mark.parametrize(
    ("job", "added"),
    [
        (["-m", "recallm_jax.evaluate"], ["--distributed"]),
        (["-m", "recallm_jax.probe"], ["--distributed"]),
        (["-mrecallm_jax.train"], ["--distributed"]),
        (["-m", "recallm_jax.train", "--distributed"], []),
        (["-c", "import recallm_jax.train"], []),
    ],
)
def test_jobs_of_several_processes_find_each_other(cloud, job, added):
    words = ["python", *job]
    done = cloud.tpu_vm("run", "--dry-run", "--accelerator-type=v6e-16", "--", *words)
    started = done.stdout.splitlines()[-1]
    assert started.endswith(shlex.join([*words, *added]).replace("'", "'\\''") + "'")


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (["recallm-train", "--workdir=gs://b/a"], ["--distributed"]),
        (["env", "A=b", ".venv/bin/recallm-probe", "--label=a"], ["--distributed"]),
        (["bash", "a.sh", "gs://b/recallm-train"], []),
    ],
)
def test_console_commands_of_jobs_are_known(cloud, words, added):
    done = cloud.tpu_vm("run", "--dry-run", "--accelerator-type=v6e-16", "--", *words)
    started = done.stdout.splitlines()[-1]
    assert started.endswith(shlex.join([*words, *added]).replace("'", "'\\''") + "'")


def test_a_job_that_is_not_ours_runs_on_each_host_by_itself_and_says_so(vm):
    done = vm.tpu_vm("run", "--", "bash", "-c", "python -m recallm_jax.train")
    assert done.returncode == 0, done.stderr
    wait_for_end(vm)
    assert "each of the 2 hosts runs it by itself" in done.stderr
    done = vm.tpu_vm("run", "--", "bash", "-c", "true", "--distributed")
    assert done.returncode == 0 and "by itself" not in done.stderr
    wait_for_end(vm)
    done = vm.tpu_vm("run", "--worker=0", "--", "bash", "-c", "true")
    assert done.returncode == 0 and "by itself" not in done.stderr
    wait_for_end(vm, (0,))


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


def test_a_bucket_that_cannot_be_reached_may_be_another_time(vm):
    (vm.home() / "no-bucket").write_text("75")
    done = vm.tpu_vm("run", "--", *TRAIN, "--workdir", "gs://b/runs/a")
    one_error(done, "worker worker-0: gs://b/runs/a can't be reached", code=1)


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
