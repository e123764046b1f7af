"""supervise.sh: what happens when the VM is taken away, a worker dies, or the job can't go on."""

import os
import re
import signal
import time

import pytest

from tests.launch.stand_ins import (
    DELETE,
    FLAGS,
    JOB,
    OFFLINE,
    TARGET,
    TRAIN,
    UP,
    executable,
    output_of,
    supervise,
    without_looks,
)


def test_from_nothing_to_a_finished_job(cloud):
    done = supervise(cloud)
    assert done.returncode == 0, done.stderr
    assert without_looks(cloud) == UP
    create = cloud.changes()[0]
    assert "--spot" in create and "--accelerator-type=v6e-16" in create
    for worker in (0, 1):
        assert cloud.job_arguments(worker) == [*JOB[2:], "--distributed"]
    assert "the job is done" in done.stderr
    assert "n may still be there and cost money" in done.stderr and DELETE in done.stderr


def test_the_vm_of_a_finished_job_is_deleted_where_asked(alone):
    done = supervise(alone, "--delete")
    assert done.returncode == 0, done.stderr
    assert without_looks(alone) == [*UP, "delete"]
    assert alone.model()["vm"] is None and alone.model()["queued"] is None
    assert "may still be there" not in done.stderr


@pytest.mark.parametrize(
    "taken",
    [{"queued": "SUSPENDED", "vm": None}, {"vm": "PREEMPTED"}],
    ids=["the request is suspended", "the VM is preempted"],
)
def test_a_preempted_vm_is_created_again_and_goes_on_with_the_same_command(cloud, taken):
    hang(cloud)
    cloud.change(rules=[look_at_jobs(set=taken)])
    done = supervise(cloud)
    assert done.returncode == 0, done.stderr
    assert without_looks(cloud) == [*UP, "delete", *UP]
    creates = [call for call in cloud.calls() if "create" in call]
    assert creates[0] == creates[1]
    assert cloud.job_arguments(0) == [*JOB[2:], "--distributed"]
    assert "it was taken away" in done.stderr


def test_an_evaluation_of_all_checkpoints_goes_on_after_a_preemption(cloud):
    words = ("-m", "recallm_jax.evaluate", "--config=configs/quickstart.py")
    words += ("--workdir=gs://b/runs/a", "--checkpoints=all")
    hang(cloud)
    cloud.change(rules=[look_at_jobs(set={"queued": "SUSPENDED", "vm": None})])
    done = supervise(cloud, job=("--", "python", *words))
    assert done.returncode == 0, done.stderr
    assert without_looks(cloud) == [*UP, "delete", *UP]
    for worker in (0, 1):
        assert cloud.job_arguments(worker) == [*words, "--distributed"]
    assert "it was taken away" in done.stderr and "the job is done" in done.stderr


def hang(cloud, *workers):
    """Let the first attempt of these workers' jobs run until it is ended; by default of all."""
    for worker in workers or range(cloud.model()["workers"]):
        (cloud.home(worker) / "codes").write_text("hang\n")


LOOK = "if [ -x recallm-jax/launch/job.sh ]"


def look_at_jobs(**rule):
    """A rule for a look at the jobs, after the first."""
    return {"match": LOOK, "skip": 1, **rule}


def looks(cloud):
    return sum(LOOK in call[-1] for call in cloud.calls())


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_vm_that_is_lost_too_often_ends_it(alone):
    alone.change(queued="SUSPENDED")
    done = supervise(alone, "--recreations=0")
    assert done.returncode == 1
    assert (
        "n was lost 1 times without an hour of work between" in done.stderr
        and DELETE in done.stderr
    )
    assert alone.verbs() == []


def is_taken_twice(cloud):
    """Let the VM be taken away twice, and the jobs run until they are ended."""
    python = cloud.folder / "worker-bin" / "python3.11"
    executable(python, python.read_text().replace("    code=0\n", "    code=hang\n"))
    taken = look_at_jobs(set={"vm": "PREEMPTED"})
    cloud.change(rules=[taken, taken | {"skip": 4}])


def test_losses_without_an_hour_of_work_between_are_counted(alone):
    is_taken_twice(alone)
    done = supervise(alone, "--recreations=1")
    assert done.returncode == 1
    assert "n was lost 2 times without an hour of work between" in done.stderr


def test_an_hour_of_work_clears_the_count_of_losses(alone):
    is_taken_twice(alone)
    arguments = (*TARGET, *FLAGS, "--recreations=1", *JOB)
    with alone.start("supervise.sh", *arguments, environment={"RECALLM_WELL": "0"}) as process:
        wait_for(lambda: alone.verbs().count("start") == 3)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = output_of(process, 20)
    assert process.returncode == 130
    assert err.count("loss 1 of 1") == 2
    alone.tpu_vm("stop")


def test_each_change_of_the_awaited_state_is_printed(alone):
    states = ["ACCEPTED", "WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "ACTIVE"]
    coming = [
        {"match": "tpu-vm describe", "set": {"vm": vm}, "skip": skip}
        for skip, vm in [(0, None), (1, None), (2, "CREATING"), (3, "CREATING"), (4, "READY")]
    ]
    alone.change(queued="ACCEPTED", states=states, rules=coming)
    done = supervise(alone)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"n: waiting \((.*)\)", done.stderr) == [
        "queued resource: ACCEPTED",
        "queued resource: WAITING_FOR_RESOURCES",
        "queued resource: ACTIVE, VM: none",
        "VM: CREATING",
    ]


def test_bad_input_ends_it(alone):
    (alone.home() / "codes").write_text("2\n")
    done = supervise(alone)
    assert done.returncode == 2
    assert "code 2 on worker=worker-0" in done.stderr
    assert "launch/tpu_vm.sh logs --name=n" in done.stderr and DELETE in done.stderr
    assert without_looks(alone) == UP


def test_a_job_that_failed_for_good_on_one_worker_restarts_on_all(cloud):
    hang(cloud, 0)
    (cloud.home(1) / "codes").write_text("1\n1\n")
    done = supervise(cloud, "--restarts=1")
    assert done.returncode == 0, done.stderr
    assert "the job failed: worker=worker-1 state=ended code=1 (restart 1 of 1)" in done.stderr
    assert without_looks(cloud) == [*UP, "stop", *UP[1:]]


def test_a_restart_that_fails_half_way_is_done_again(alone):
    (alone.home() / "codes").write_text("1\n1\n")
    reset = {"match": "scp", "skip": 1, "stderr": "ERROR: (gcloud) Connection reset", "code": 1}
    alone.change(rules=[reset])
    done = supervise(alone, "--restarts=1")
    assert done.returncode == 0, done.stderr
    assert "the job was stopped" not in done.stderr and "the job is done" in done.stderr
    assert alone.verbs().count("start") == 2


def test_a_stop_that_fails_is_done_again_before_the_code_is_replaced(cloud):
    hang(cloud, 0)
    (cloud.home(1) / "codes").write_text("1\n1\n")
    reset = {"match": "job.sh stop", "stderr": "ERROR: Connection reset", "code": 1}
    cloud.change(rules=[reset])
    done = supervise(cloud, "--restarts=1")
    assert done.returncode == 0, done.stderr
    assert without_looks(cloud) == [*UP, "stop", "stop", *UP[1:]]


def test_a_job_that_keeps_failing_ends_it(alone):
    (alone.home() / "codes").write_text("1\n" * 9)
    done = supervise(alone, "--restarts=1")
    assert done.returncode == 1
    assert "the job failed 2 times" in done.stderr and DELETE in done.stderr


def test_a_worker_that_restarted_starts_all_again(cloud):
    hang(cloud)
    with cloud.start("supervise.sh", *TARGET, *FLAGS, *JOB) as process:
        kept = cloud.home(1) / "recallm-jax-job"
        wait_for(lambda: not (cloud.home(1) / "codes").stat().st_size)
        for name in ("pid", "child"):
            os.killpg(int((kept / name).read_text()), signal.SIGKILL)
        _, err = output_of(process, 40)
    assert process.returncode == 0, err
    assert "a worker restarted: worker=worker-1 state=dead" in err
    assert without_looks(cloud) == [*UP, "stop", *UP[1:]]


def test_one_worker_that_does_not_answer_is_replaced_with_its_slice(cloud):
    hang(cloud)
    gone = look_at_jobs(set={"unreachable": ["worker-1"]})
    back = {"match": "queued-resources delete", "set": {"unreachable": []}}
    cloud.change(rules=[gone, back])
    done = supervise(cloud, "--recreations=1")
    assert "1 of 2 workers of n can't be reached (look 3)" in done.stderr
    assert "a worker died; creating it again" in done.stderr
    assert without_looks(cloud)[: len(UP) + 2] == [*UP, "delete", "create"]


def test_a_worker_that_hangs_is_not_waited_for(cloud):
    hang(cloud)
    stuck = look_at_jobs(set={"hanging": ["worker-1"]})
    back = {"match": "queued-resources delete", "set": {"hanging": []}}
    cloud.change(rules=[stuck, back])
    done = supervise(cloud, "--recreations=1", "--look-limit=3")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 workers of n can't be reached (look 3)" in done.stderr
    assert without_looks(cloud)[: len(UP) + 2] == [*UP, "delete", "create"]


def test_a_look_that_hangs_on_all_workers_may_be_our_own_connection(cloud):
    hang(cloud)
    cloud.change(rules=[look_at_jobs(set={"hanging": ["worker-0"]})])
    with cloud.start("supervise.sh", *TARGET, *FLAGS, "--look-limit=1", *JOB) as process:
        wait_for(lambda: looks(cloud) >= 5)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = output_of(process, 20)
    assert "2 of 2 workers of n can't be reached (look 3)" in err
    assert "timed out: no answer in 1 s; the network may be down" in err
    assert "delete" not in cloud.verbs()
    cloud.change(hanging=[])
    cloud.tpu_vm("stop")


def test_a_look_that_hangs_can_be_interrupted(alone):
    hang(alone)
    alone.change(rules=[look_at_jobs(set={"hanging": ["worker-0"]})])
    with alone.start("supervise.sh", *TARGET, *FLAGS, *JOB) as process:
        wait_for(lambda: alone.model().get("hanging"))
        os.killpg(process.pid, signal.SIGINT)
        _, err = output_of(process, 20)
    assert process.returncode == 130 and "no longer watching" in err
    alone.change(hanging=[])
    alone.tpu_vm("stop")


def test_a_vm_is_not_deleted_because_our_own_connection_is_down(cloud):
    gone = {"unreachable": ["worker-0", "worker-1"]}
    cloud.change(rules=[look_at_jobs(set=gone)])
    hang(cloud)
    with cloud.start("supervise.sh", *TARGET, *FLAGS, *JOB) as process:
        wait_for(lambda: looks(cloud) >= 6)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = output_of(process, 20)
    assert "2 of 2 workers of n can't be reached" in err
    assert "delete" not in cloud.verbs()
    cloud.change(unreachable=[])
    cloud.tpu_vm("stop")


def test_it_takes_up_a_job_that_runs_and_refuses_another(alone):
    alone.change(vm="READY")
    assert alone.tpu_vm("setup").returncode == 0
    hang(alone)
    assert alone.tpu_vm("run", *JOB).returncode == 0
    # The running job's command is the beginning of the second one.
    for other in (["--workdir=gs://b/runs/b"], JOB[len(TRAIN) + 1 :][:1]):
        done = supervise(alone, job=("--", *TRAIN, *other))
        assert done.returncode == 2
        assert "another job runs on n" in done.stderr
    before = looks(alone)
    with alone.start("supervise.sh", *TARGET, *FLAGS, *JOB) as process:
        wait_for(lambda: looks(alone) >= before + 2)
        assert process.poll() is None
        assert alone.tpu_vm("stop").returncode == 0
        _, err = output_of(process, 20)
    assert process.returncode == 1
    assert "the job was stopped on worker=worker-" in err
    assert "create" not in alone.verbs()
    # Asked for again, it starts again.
    done = supervise(alone)
    assert done.returncode == 0, done.stderr
    assert alone.verbs().count("start") == 2


def test_the_end_of_another_job_does_not_count(alone):
    alone.change(vm="READY")
    assert alone.tpu_vm("setup").returncode == 0
    assert alone.tpu_vm("run", "--", *TRAIN, "--workdir=gs://b/runs/b").returncode == 0
    state = alone.home() / "recallm-jax-job" / "state"
    wait_for(lambda: "ended" in state.read_text())
    done = supervise(alone)
    assert done.returncode == 0, done.stderr
    assert alone.verbs().count("start") == 2
    # The job that is done is not started again, unless asked for.
    done = supervise(alone)
    assert done.returncode == 0 and alone.verbs().count("start") == 2
    assert "ended with code 0 before this watch began" in done.stderr
    assert supervise(alone, "--again").returncode == 0
    assert alone.verbs().count("start") == 3


def test_words_beyond_ascii_are_the_same_job_on_a_worker_with_another_locale(alone):
    alone.change(vm="READY")
    assert alone.tpu_vm("setup").returncode == 0
    job = (*JOB, "--config.note=Füße")
    done = supervise(alone, job=job, environment={"LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr
    assert "another job" not in done.stderr and alone.job_arguments()[-1] == job[-1]


def test_interrupted_it_leaves_the_job_and_says_so(alone):
    hang(alone)
    with alone.start("supervise.sh", *TARGET, *FLAGS, "--poll=30", *JOB) as process:
        wait_for(lambda: "start" in alone.verbs())
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, err = output_of(process, 20)
    assert process.returncode == 130
    assert "what runs on n goes on" in err and DELETE in err
    assert "state=running" in alone.tpu_vm("status").stdout
    alone.tpu_vm("stop")


def test_a_stopped_vm_is_not_started(cloud):
    cloud.change(vm="STOPPED")
    done = supervise(cloud)
    assert done.returncode == 2
    assert "gcloud compute tpus tpu-vm start n --zone=us-east5-a" in done.stderr


def test_a_network_that_is_down_while_a_token_is_refreshed_is_waited_for(alone):
    # From the first look after the start on.
    alone.change(rules=[{"match": "describe", "stderr": OFFLINE, "code": 1, "skip": 4, "times": 4}])
    done = supervise(alone)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the network may be down") == 4 and "sign in" not in done.stderr
    assert without_looks(alone) == UP


def test_an_answer_that_fails_once_is_asked_again(alone):
    rule = {"match": "describe", "stderr": "ERROR: (gcloud) Connection reset", "code": 1}
    alone.change(rules=[rule])
    done = supervise(alone)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("job", "part"),
    [
        ((), "which job?"),
        (("--", *TRAIN, "--workdir=runs/a"), "--workdir=gs://BUCKET/FOLDER"),
        (
            ("--", "python", "-m", "recallm_jax.report", "--workdir=gs://b/runs/a"),
            "recallm_jax.report runs as one process",
        ),
    ],
)
def test_bad_arguments(cloud, job, part):
    done = supervise(cloud, job=job)
    assert done.returncode == 2 and part in done.stderr and done.stderr.count("\n") == 1
    assert cloud.calls() == []


def test_a_dry_run_prints_one_round_and_runs_nothing(cloud):
    done = supervise(cloud, "--dry-run")
    assert done.returncode == 0 and done.stderr == ""
    assert cloud.calls() == []
    printed = done.stdout.splitlines()
    assert all(line.startswith("gcloud ") for line in printed)
    assert "queued-resources create" in printed[0] and "--distributed" in printed[-1]
