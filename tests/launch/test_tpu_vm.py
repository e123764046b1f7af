"""tpu_vm.sh logs, fetch and delete; and dry runs of every command."""

import pytest

from tests.launch.stand_ins import (
    DELETE,
    OVERRIDES,
    PLACE,
    QUEUED,
    TARGET,
    TRAIN,
    TYPE,
    VM,
    one_error,
    output_of,
    wait_for_end,
)


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
        rest, _ = output_of(following, 20)
    assert "ended with exit code 143" in rest


def test_fetch_from_a_bucket_leaves_checkpoints_and_programs_there(cloud):
    done = cloud.tpu_vm("fetch", "--workdir=gs://b/runs/a/", "--to=here/a")
    assert done.returncode == 0, done.stderr
    words = ["storage", "rsync", "--recursive"]
    without = "--exclude=(.*/)?(checkpoints|programs)/.*"
    assert cloud.calls() == [[*words, without, "gs://b/runs/a", "here/a"]]
    assert cloud.tpu_vm("fetch", "--workdir=gs://b/runs/a", "--checkpoints").returncode == 0
    without = "--exclude=(.*/)?(programs)/.*"
    assert cloud.calls()[1] == [*words, without, "gs://b/runs/a", "runs/fetched"]


@pytest.mark.parametrize(
    ("stderr", "remedy"),
    [
        ("ERROR: (gcloud.storage.rsync) HTTPError 403: a does not have access", "objectViewer"),
        ("ERROR: (gcloud.storage.rsync) gs://b not found: 404.", "gcloud storage ls gs://b/runs"),
        (
            "ERROR: (gcloud.storage.rsync) Did not find existing container at: gs://b/runs/a",
            "gcloud storage ls gs://b/runs",
        ),
    ],
)
def test_fetch_from_a_bucket_that_cannot_be_read(cloud, stderr, remedy):
    cloud.change(rules=[{"match": "rsync", "stderr": stderr, "code": 1}])
    one_error(cloud.tpu_vm("fetch", "--workdir=gs://b/runs/a"), "gs://b/runs/a", remedy)


def test_fetch_from_worker_0(vm):
    run = vm.home() / "recallm-jax" / "runs" / "a b"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "large").touch()
    (run / "programs").mkdir()
    (run / "programs" / "jit_step-cache").touch()
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


def test_delete_removes_a_vm_that_was_never_queued(cloud):
    cloud.change(vm="PREEMPTED")
    assert cloud.tpu_vm("delete").returncode == 0
    assert cloud.changes() == [[*VM, "delete", "n", *PLACE, "--quiet"]]


def test_delete_of_a_vm_that_never_existed_says_how_to_look_in_all_zones(cloud):
    done = cloud.tpu_vm("delete", "--project=my-project")
    assert done.returncode == 0 and cloud.verbs() == []
    assert done.stderr == (
        "there was nothing called n in us-east5-a; all zones: "
        "gcloud compute tpus tpu-vm list --zone=- --project=my-project\n"
    )


@pytest.mark.parametrize(
    "stderr",
    [
        "NOT_FOUND: Location us-east5-a is not found or access is unauthorized.",
        "NOT_FOUND: Resource 'projects/p/locations/us-east5-a' was not found",
        "PERMISSION_DENIED: Permission denied on 'locations/us-east5-a' (or it may not exist).",
    ],
)
def test_a_zone_that_does_not_exist_is_not_one_without_the_vm(cloud, stderr):
    stderr = f"ERROR: (gcloud.compute.tpus.tpu-vm.describe) {stderr}"
    cloud.change(rules=[{"match": "describe", "stderr": stderr, "code": 1, "times": 9}])
    for command in ("delete", "status"):
        done = cloud.tpu_vm(command, "--project=my-project")
        one_error(done, "gcloud compute tpus locations list --project=my-project")


def test_delete_names_what_still_exists(cloud):
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


def test_a_dry_run_prints_the_commands_of_the_run(vm):
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
