"""tpu_vm.sh setup: what is copied to the workers and installed there."""

from tests.launch.stand_ins import (
    PLACE,
    SSH_OPTIONS,
    TRAIN,
    VM,
    executable,
    one_error,
    wait_for_end,
)


def test_setup_copies_the_commit_to_all_workers_and_installs_it(cloud):
    cloud.change(vm="READY")
    done = cloud.tpu_vm("setup")
    assert done.returncode == 0, done.stderr
    copy, install = cloud.calls()
    assert copy[:4] == [*VM, "scp"]
    scp_flags = [f"--scp-flag={option}" for option in SSH_OPTIONS]
    assert copy[5:] == ["n:recallm-jax.new.tar.gz", "--worker=all", *PLACE, *scp_flags]
    ssh_flags = [f"--ssh-flag={option}" for option in SSH_OPTIONS]
    assert install[:-1] == [*VM, "ssh", "n", *PLACE, *ssh_flags, "--worker=all"]
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


def test_a_second_setup_installs_nothing(vm):
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
    one_error(done, "worker worker-0: pip could not install", code=1)


def test_the_code_under_a_running_job_stays(vm):
    (vm.home(1) / "codes").write_text("hang\n")
    assert vm.tpu_vm("run", "--", *TRAIN).returncode == 0
    wait_for_end(vm, (0,))
    (vm.clone / "new.py").touch()
    vm.commit()
    one_error(vm.tpu_vm("setup"), "worker worker-1: a job runs", "launch/tpu_vm.sh stop")
    assert not (vm.home(1) / "recallm-jax" / "new.py").exists()
    assert vm.tpu_vm("stop").returncode == 0
    assert vm.tpu_vm("setup").returncode == 0
    assert (vm.home(1) / "recallm-jax" / "new.py").exists()


def test_copying_to_several_workers_needs_an_agent(cloud):
    stderr = "ERROR: (gcloud.compute.tpus.tpu-vm.scp) SSH Key is not present in the SSH agent."
    cloud.change(vm="READY", rules=[{"match": "scp", "stderr": stderr, "code": 1}])
    one_error(cloud.tpu_vm("setup"), "ssh-add ~/.ssh/google_compute_engine")
