"""supervise.sh on the way to a VM: what is refused, what waits, what is tried again."""

import pytest

from tests.launch.stand_ins import DELETE, JOB, OFFLINE, TARGET, UP, supervise, without_looks


def test_a_create_that_is_refused_ends_it(alone):
    stderr = "ERROR: (gcloud) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied"
    alone.change(rules=[{"match": "create", "stderr": stderr, "code": 1}])
    done = supervise(alone)
    assert done.returncode == 2
    assert "roles/tpu.admin" in done.stderr and "nothing is left of n" in done.stderr
    assert alone.verbs() == ["create"]


def test_a_request_that_was_made_before_create_was_refused_is_not_called_gone(alone):
    stderr = "ERROR: (gcloud) PERMISSION_DENIED: Permission 'tpu.queuedResources.get' denied"
    refused = {"match": "queued-resources describe", "stderr": stderr, "code": 1, "skip": 1}
    alone.change(rules=[refused | {"times": 9}])
    done = supervise(alone)
    assert done.returncode == 2 and alone.verbs() == ["create"]
    assert "n may still be there and cost money" in done.stderr and DELETE in done.stderr


@pytest.mark.parametrize("times", [1, 30])
def test_a_request_keeps_its_place_in_the_queue_while_looks_at_it_fail(alone, times):
    failing = {"match": "queued-resources describe", "stderr": OFFLINE, "code": 1, "times": times}
    alone.change(
        queue=["WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "ACTIVE"],
        rules=[failing | {"skip": 2}],
    )
    done = supervise(alone)
    assert done.returncode == 0, done.stderr
    assert without_looks(alone) == UP


def test_a_request_whose_answer_was_lost_is_waited_for(alone):
    lost = {"queued": "WAITING_FOR_RESOURCES", "states": ["WAITING_FOR_RESOURCES", "ACTIVE"]}
    rule = {"match": "create", "stderr": "ERROR: Connection reset", "code": 1, "set": lost}
    alone.change(rules=[rule])
    done = supervise(alone)
    assert done.returncode == 0, done.stderr
    assert without_looks(alone) == UP


def test_a_request_that_fails_while_it_is_watched_is_not_the_loss_of_a_vm(alone):
    waiting = "WAITING_FOR_RESOURCES"
    made = {"queued": waiting, "states": [waiting, waiting, "FAILED", "FAILED"]}
    lost = {"match": "queued-resources create", "stderr": OFFLINE, "code": 1, "set": made}
    alone.change(rules=[lost | {"times": 1}])
    done = supervise(alone)
    assert done.returncode == 0, done.stderr
    assert "the request in the queue failed; trying again" in done.stderr
    assert "loss 1" not in done.stderr and "taken away" not in done.stderr


def test_a_lack_of_capacity_is_waited_for_as_long_as_it_takes(alone):
    stderr = 'ERROR: (gcloud) {"code": 8, "message": "There is no more capacity in the zone"}'
    alone.change(rules=[{"match": "create", "stderr": stderr, "code": 1, "times": 3}])
    done = supervise(alone, "--recreations=1")
    assert done.returncode == 0, done.stderr
    assert without_looks(alone) == ["create"] * 3 + UP


def test_a_create_that_keeps_failing_ends_it(alone):
    stderr = "ERROR: (gcloud) Connection reset by peer"
    alone.change(rules=[{"match": "create", "stderr": stderr, "code": 1, "times": 9}])
    done = supervise(alone, "--recreations=1")
    assert done.returncode == 1 and alone.verbs() == ["create"] * 2
    assert "nothing is left of n" in done.stderr and "may still be there" not in done.stderr


@pytest.mark.parametrize("accelerator", ["v6e", "v6e-x", "v6e-0x10"])
def test_a_type_that_does_not_exist_is_one_line(alone, accelerator):
    flags = (f"--accelerator-type={accelerator}", "--poll=0")
    done = alone.run("supervise.sh", *TARGET, *flags, *JOB)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --accelerator-type={accelerator} doesn't exist")
    assert "syntax" not in done.stderr and "unbound" not in done.stderr


def test_a_delete_that_fails_is_tried_until_nothing_is_left(alone):
    reset = {"match": "queued-resources delete", "stderr": "ERROR: Connection reset", "code": 1}
    alone.change(rules=[reset | {"times": 2}])
    done = supervise(alone, "--delete")
    assert done.returncode == 0, done.stderr
    assert alone.model()["vm"] is None and alone.verbs()[-3:] == ["delete"] * 3
    assert "may still be there" not in done.stderr
    # When it is given up, what is left is said.
    alone.change(rules=[reset | {"times": 9}])
    done = supervise(alone, "--delete", "--recreations=1")
    assert done.returncode == 1 and alone.model()["vm"] == "READY"
    assert "n may still be there and cost money" in done.stderr and DELETE in done.stderr


def test_a_worker_that_cannot_install_yet_is_asked_again(alone):
    stderr = "unavailable: worker worker-0: pip could not install the project"
    alone.change(rules=[{"match": "launch/bootstrap.sh", "stderr": stderr, "code": 1}])
    done = supervise(alone)
    assert done.returncode == 0, done.stderr
    assert "error: worker worker-0: pip could not install the project" in done.stderr
    assert without_looks(alone) == ["create", "scp", "bootstrap", *UP[1:]]


def test_a_request_that_fails_in_the_queue_is_deleted_and_made_again(alone):
    alone.change(queue=["WAITING_FOR_RESOURCES", "FAILED"])
    alone.change(rules=[{"match": "queued-resources delete", "set": {"queue": ["ACTIVE"]}}])
    done = supervise(alone)
    assert done.returncode == 0, done.stderr
    assert without_looks(alone) == ["create", "delete", *UP]
