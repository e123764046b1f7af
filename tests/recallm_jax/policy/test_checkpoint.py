"""Checkpoints: a saved state comes back on its shardings, and a broken one is never used."""

import errno
import functools
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recallm_jax.policy import checkpoint
from recallm_jax.runtime.errors import TryAgain, UserError


def make_state(scale: float, width: int = 4) -> dict:
    return {
        "policy": {"w": scale * jnp.arange(8.0 * width).reshape(8, width)},
        "moments": (jnp.ones(3, jnp.bfloat16), None),
        "key": jax.random.fold_in(jax.random.key(1), int(scale)),
        "step": jnp.int32(scale),
    }


def as_numpy(state) -> list[np.ndarray]:
    plain = checkpoint._flatten(state)
    return [np.asarray(plain[name]) for name in sorted(plain)]


def assert_same(got, wanted):
    for x, y in zip(as_numpy(got), as_numpy(wanted), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype


def write(folder, scales, keep: int = 3) -> None:
    with checkpoint.open_manager(folder, keep=keep) as manager:
        for scale in scales:
            checkpoint.save(manager, scale, make_state(scale), {"stage": "grpo", "at": scale})
        checkpoint.finish(manager)


def read(folder, template=None):
    with checkpoint.open_manager(folder, keep=3) as manager:
        template = make_state(0) if template is None else template
        return checkpoint.restore_latest(manager, template, set_aside=True)


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_the_newest_state_comes_back_with_keys_and_metadata(tmp_path):
    write(tmp_path, [1, 2])
    state, metadata = read(tmp_path)
    assert_same(state, make_state(2))
    assert metadata == {"stage": "grpo", "at": 2}
    assert jax.random.uniform(state["key"]) == jax.random.uniform(make_state(2)["key"])


def test_an_abstract_template_is_enough(tmp_path):
    write(tmp_path, [1])
    state, _ = read(tmp_path, jax.eval_shape(functools.partial(make_state, 0)))
    assert_same(state, make_state(1))


def test_an_empty_folder_gives_none(tmp_path):
    assert read(tmp_path) is None


def test_only_the_newest_are_kept(tmp_path):
    write(tmp_path, [1, 2, 3, 4], keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4"]


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def overwrite(x):
        return 0 * x - 1

    big = jnp.arange(4_000_000, dtype=jnp.float32)
    with checkpoint.open_manager(tmp_path, keep=1) as manager:
        checkpoint.save(manager, 1, {"big": big}, {})
        jax.block_until_ready(overwrite(big))
        checkpoint.finish(manager)
    state, _ = read(tmp_path, {"big": jax.ShapeDtypeStruct((4_000_000,), jnp.float32)})
    np.testing.assert_array_equal(state["big"], np.arange(4_000_000, dtype=np.float32))


def test_a_state_moves_to_other_shardings(tmp_path):
    write(tmp_path, [3])
    sharding = NamedSharding(
        Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b")), PartitionSpec("a", "b")
    )
    template = make_state(0)
    template["policy"]["w"] = jax.device_put(template["policy"]["w"], sharding)
    state, _ = read(tmp_path, template)
    assert state["policy"]["w"].sharding == sharding
    assert_same(state, make_state(3))


def test_a_checkpoint_of_another_model_is_refused_and_kept(tmp_path):
    write(tmp_path, [1])
    with pytest.raises(UserError, match=r"of another model or stage: policy\.w is float32\[8,4\]"):
        read(tmp_path, make_state(0, width=5))
    with pytest.raises(UserError, match="extra is absent in it"):
        read(tmp_path, make_state(0) | {"extra": jnp.zeros(1)})
    assert (tmp_path / "1").is_dir()


def damage_metadata(folder):
    (folder / "metadata" / "metadata").write_text("{")


def damage_arrays(folder):
    for path in (folder / "arrays").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_arrays(folder):
    shutil.rmtree(folder / "arrays")


@pytest.mark.parametrize("damage", [damage_metadata, damage_arrays, lose_arrays])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(tmp_path, damage, capfd):
    write(tmp_path, [1, 2])
    damage(tmp_path / "2")
    with checkpoint.open_manager(tmp_path, keep=3) as manager:
        state, metadata = checkpoint.restore_latest(manager, make_state(0), set_aside=True)
        assert metadata["at"] == 1
        assert_same(state, make_state(1))
        assert f"checkpoint {tmp_path / '2'} is damaged" in capfd.readouterr().err
        # The run goes on and writes its step 2 again.
        checkpoint.save(manager, 2, make_state(7), {"at": 7})
        checkpoint.finish(manager)
    state, metadata = read(tmp_path)
    assert metadata == {"at": 7}
    assert_same(state, make_state(7))


def test_a_reader_changes_nothing_in_the_folder(tmp_path, capfd):
    write(tmp_path, [1, 2])
    damage_metadata(tmp_path / "2")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with checkpoint.open_reader(tmp_path) as manager:
        _, metadata = checkpoint.restore_latest(manager, make_state(0))
    assert metadata["at"] == 1
    assert "is damaged" in capfd.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_lack_of_memory_is_not_taken_for_damage(tmp_path, monkeypatch):
    write(tmp_path, [1])

    def fail(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    with checkpoint.open_manager(tmp_path, keep=3) as manager:
        monkeypatch.setattr(manager, "restore", fail)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory"):
            checkpoint.restore_latest(manager, make_state(0), set_aside=True)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


# TensorStore's message for a file that can't be read.
STALE = "UNKNOWN: Error reading local file: Stale file handle [os_error_code='116']"


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ENOTCONN, "Transport endpoint is not connected"),
        OSError(errno.EMFILE, "Too many open files"),
        ValueError(STALE),
        TimeoutError(),
    ],
)
def test_a_failing_file_system_is_not_taken_for_damage(tmp_path, monkeypatch, fault):
    write(tmp_path, [1, 2])

    def fail(*args, **kwargs):
        raise fault

    with checkpoint.open_manager(tmp_path, keep=3) as manager:
        monkeypatch.setattr(manager, "restore", fail)
        with pytest.raises(TryAgain, match=f"^{tmp_path / '2'} .*; start the same command again$"):
            checkpoint.restore_latest(manager, make_state(0), set_aside=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_file_that_cannot_be_opened_is_the_file_systems_fault(tmp_path):
    """The libraries raise this error themselves; the test does not make one up."""
    write(tmp_path, [1])
    file = largest_file(tmp_path / "1" / "arrays" / "d")
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(TryAgain, match="too many levels of symbolic links"):
        read(tmp_path)


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_over_unasked(tmp_path):
    write(tmp_path, [1])
    damage_metadata(tmp_path / "1")
    for _ in range(2):
        with pytest.raises(UserError, match=r"every checkpoint in .* delete the folder to start"):
            read(tmp_path)


def test_flipped_bytes_are_noticed(tmp_path):
    with checkpoint.open_manager(tmp_path, keep=3) as manager:
        values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
        checkpoint.save(manager, 1, {"w": jnp.asarray(values)}, {})
        checkpoint.finish(manager)
    file = largest_file(tmp_path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        read(tmp_path, {"w": jnp.zeros(100_000)})


def test_a_half_written_checkpoint_is_not_used_and_soon_removed(tmp_path):
    write(tmp_path, [1, 2])
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
    _, metadata = read(tmp_path)
    assert metadata["at"] == 1
    write(tmp_path, [3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


@pytest.mark.parametrize("moment", ["save", "wait_until_finished"])
def test_a_full_disk_is_reported_and_leaves_no_half_checkpoint(tmp_path, monkeypatch, moment):
    write(tmp_path, [1])

    def fail(*args, **kwargs):
        (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")

    with checkpoint.open_manager(tmp_path, keep=3) as manager:
        with monkeypatch.context() as patch:
            patch.setattr(manager, moment, fail)
            with pytest.raises(UserError, match="the disk is full while writing"):
                checkpoint.save(manager, 2, make_state(2), {})
        assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (RuntimeError("Event loop is closed"), False),
        (RuntimeError("Event loop is running"), True),
        (OSError("Event loop is closed"), True),
    ],
)
def test_writes_that_end_after_one_has_failed_are_not_shown(
    error, shown, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    checkpoint.open_manager(tmp_path, keep=1).close()

    class Late:
        def __del__(self):
            raise error

    Late()
    assert (type(error).__name__ in capsys.readouterr().err) == shown
