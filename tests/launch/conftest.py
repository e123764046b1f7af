"""Clouds for the tests of launch/: without a VM, and with one that is set up."""

import pytest

from tests.launch.stand_ins import make_cloud


@pytest.fixture
def cloud(tmp_path):
    return make_cloud(tmp_path)


@pytest.fixture
def alone(tmp_path):
    """A cloud whose VMs have one worker."""
    return make_cloud(tmp_path, workers=1)


@pytest.fixture
def vm(tmp_path):
    """A VM of two workers, set up."""
    cloud = make_cloud(tmp_path, vm="READY")
    done = cloud.tpu_vm("setup")
    assert done.returncode == 0, done.stderr
    (tmp_path / "calls").unlink()
    return cloud
