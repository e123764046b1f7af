"""tpu_vm.sh create, and what it refuses: exact commands, messages, what is left."""

import os
import re
import shutil
import signal
import time

import pytest

from tests.launch.stand_ins import (
    DELETE,
    OFFLINE,
    PLACE,
    QUEUED,
    TARGET,
    TYPE,
    VM,
    one_error,
    output_of,
)


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


def test_a_request_left_in_the_queue_says_how_to_delete_it(cloud):
    cloud.change(queue=["WAITING_FOR_RESOURCES"])
    done = cloud.tpu_vm("create", TYPE, "--queued", "--no-wait")
    assert done.returncode == 0 and cloud.model()["vm"] is None
    assert "n waits in the queue" in done.stderr and DELETE in done.stderr


def test_a_request_that_ends_without_a_vm_says_how_to_delete_it(cloud):
    cloud.change(queue=["WAITING_FOR_RESOURCES", "FAILED"])
    done = cloud.tpu_vm("create", TYPE, "--queued", "--poll=0")
    one_error(done, "FAILED", DELETE, code=1)


def test_a_look_at_the_queue_that_fails_is_done_again(cloud):
    cloud.change(
        queue=["WAITING_FOR_RESOURCES", "ACTIVE"],
        rules=[{"match": "describe", "stderr": OFFLINE, "code": 1, "times": 20}],
    )
    done = cloud.tpu_vm("create", TYPE, "--queued", "--poll=0")
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == ["create"] and "n is ready" in done.stderr
    assert done.stderr.count("the network may be down") == 1


@pytest.mark.parametrize(
    ("stderr", "code", "looks"),
    [(OFFLINE, 1, 21), ("ERROR: (gcloud) PERMISSION_DENIED: Permission denied", 2, 1)],
    ids=["the network is down", "the user must mend it"],
)
def test_a_wait_that_is_given_up_says_how_to_delete_the_request(cloud, stderr, code, looks):
    cloud.change(rules=[{"match": "describe", "stderr": stderr, "code": 1, "times": 99}])
    done = cloud.tpu_vm("create", TYPE, "--queued", "--poll=0")
    one_error(done, code=code)
    assert "n may still wait in the queue, or be a VM and cost money; look: " in done.stderr
    assert done.stderr.endswith(f"delete it: {DELETE}\n")
    assert len(cloud.calls()) - 1 == looks


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
            3,
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
        (OFFLINE, 1, "the network may be down"),
        (
            "ERROR: gcloud crashed (TransportError): ('Connection aborted.', RemoteDisconnected())",
            1,
            "the network may be down",
        ),
        (
            "ERROR: (gcloud.compute.tpus.tpu-vm.create) RESOURCE_EXHAUSTED: Quota exceeded for "
            "quota metric 'Read requests' and limit 'Read requests per minute' of service "
            "'tpu.googleapis.com' for consumer 'project_number:1'.",
            1,
            "asked too often",
        ),
        (
            "ERROR: (gcloud.compute.tpus.tpu-vm.create) RESOURCE_EXHAUSTED: Quota "
            "'TPUS_PER_TPU_FAMILY' exceeded.  Limit: 0.0 in region us-east5.",
            2,
            "Quotas",
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
        _, err = output_of(process, 20)
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
        (["create", "--name=n", "--zone=us-east5", TYPE], "--zone=us-east5 is not a zone"),
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
        (["logs", *TARGET, "--", "true"], "nothing after --"),
    ],
)
def test_bad_arguments(cloud, arguments, part):
    one_error(cloud.run("tpu_vm.sh", *arguments), part)
    assert cloud.calls() == []
