"""Checkpoints of a run, by Orbax: saves are asynchronous and atomic; the newest whole one is used.

A checkpoint holds a pytree of arrays (parameters, optimiser state, random keys, counters) and JSON
metadata (stage, data position, whatever else the next step reads). On disk the arrays lie under
their tree paths, so that only names, shapes and dtypes have to agree when they are read.

If several processes train one policy, each saves and restores its own parts of the arrays, in a
folder that all of them see; process 0 does the rest.
"""

import contextlib
import errno
import json
import logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.options import MultiprocessingOptions

from recallm_jax.runtime import processes
from recallm_jax.runtime.errors import TryAgain, UserError, full_disk, full_disk_message
from storage import faults
from storage.files import Path, as_path, is_remote, make_folder

_ARRAYS = "arrays"
_METADATA = "metadata"
_LAYOUT = "layout"
_CHECKSUMS = "checksums"
_DAMAGED = ".damaged"
State = Any


def open_manager(folder: str | Path, *, keep: int) -> ocp.CheckpointManager:
    """Open a folder of checkpoints for writing; the newest `keep` of them stay.

    The remains of an interrupted save are removed. Use the result in `with`, or call `close`.
    """
    path = _absolute(folder)
    make_folder(path)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _without_late_writes
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
    )
    return _manager(path, options)


def open_reader(folder: str | Path) -> ocp.CheckpointManager:
    """Open a folder of checkpoints for reading; a run may be writing there."""
    # Set to a reader's values here: Orbax would warn that it sets them itself.
    options = ocp.CheckpointManagerOptions(
        read_only=True,
        save_interval_steps=0,
        create=False,
        # A reader does not wait for other processes: each may read another checkpoint, or fail.
        multiprocessing_options=_alone(),
    )
    return _manager(_absolute(folder), options)


def _absolute(folder: str | Path) -> Path:
    path = as_path(folder)
    return path if is_remote(path) else path.absolute()


def _alone() -> MultiprocessingOptions:
    number, count = processes.number_and_count()
    if count == 1:
        return MultiprocessingOptions()
    return MultiprocessingOptions(
        primary_host=number, active_processes={number}, barrier_sync_key_prefix=f"alone{number}"
    )


def _manager(path: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    logging.getLogger("absl").addFilter(_not_by_orbax)
    return ocp.CheckpointManager(path, options=options, item_names=(_ARRAYS, _METADATA))


def _not_by_orbax(record: logging.LogRecord) -> bool:
    """Keep Orbax from logging, with pages of traceback, the failures that it raises as well."""
    return "orbax" not in record.pathname


def _without_late_writes(unraisable: "sys.UnraisableHookArgs") -> None:
    """Show an exception that nobody can catch, unless it says only that a write ended too late.

    When one of Orbax's writes fails, it closes the event loop of the others, and TensorStore shows
    a traceback for each of them that ends after that.
    """
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


def save(
    manager: ocp.CheckpointManager, step: int, state: State, metadata: Mapping[str, Any]
) -> None:
    """Start to write a checkpoint; the state may be donated as soon as this returns.

    Raises:
      UserError: the disk was full, now or while the previous save ran in the background.
    """
    flat = _flatten(state)
    written = {"run": dict(metadata), _LAYOUT: _layout(flat), _CHECKSUMS: checksums(flat)}
    with _full_disk_told(manager):
        # Orbax would wait for the previous save anyway; here its failure is reported.
        manager.wait_until_finished()
        manager.save(
            step,
            args=ocp.args.Composite(
                **{_ARRAYS: ocp.args.StandardSave(flat), _METADATA: ocp.args.JsonSave(written)}
            ),
            force=True,
        )


def finish(manager: ocp.CheckpointManager) -> None:
    """Wait until the last checkpoint is whole.

    Raises:
      UserError: the disk was full.
    """
    with _full_disk_told(manager):
        manager.wait_until_finished()
        manager.check_for_errors()


def restore_latest(
    manager: ocp.CheckpointManager, template: State, *, set_aside: bool = False
) -> tuple[State, dict[str, Any]] | None:
    """Return the newest complete checkpoint's state and metadata; None if there is none.

    A damaged checkpoint is reported on stderr, and the one before it is used.

    Args:
      template: arrays or `jax.ShapeDtypeStruct`s with the state's structure, shapes, dtypes and
        shardings; the result lies on these shardings.
      set_aside: rename a damaged checkpoint, so that its step can be written again.

    Raises:
      UserError: the newest readable checkpoint is of another model, or all are damaged.
    """
    mesh = processes.mesh_of(template)
    folder = _folder(manager)
    manager.reload()
    # All processes read the same checkpoint, even if they see different steps in the folder.
    steps = json.loads(processes.text_of_leader(json.dumps(sorted(manager.all_steps())), mesh))
    with _reader_of(manager, mesh) as reader:
        for step in reversed(steps):
            path = folder / str(step)
            try:
                return restore_step(reader, step, template)
            except Damaged as damaged:
                aside = _set_aside(manager, path, mesh) if set_aside else ""
                if processes.leads(mesh):
                    print(
                        f"warning: checkpoint {path} is damaged ({damaged}){aside}; "
                        "the one before it is used",
                        file=sys.stderr,
                    )
    if steps or list(folder.glob(f"*{_DAMAGED}")):
        raise UserError(f"every checkpoint in {folder} is damaged; delete the folder to start over")
    return None


@contextlib.contextmanager
def _reader_of(
    manager: ocp.CheckpointManager, mesh: Mesh | None
) -> Iterator[ocp.CheckpointManager]:
    if not processes.several(mesh):
        yield manager
        return
    # This reader does not wait for other processes: one may have found damage and given up.
    with open_reader(_folder(manager)) as reader:
        yield reader


class Damaged(Exception):
    """A checkpoint can't be read, now or later."""


# Error numbers that mean a file is lost; any other error may pass by itself.
_LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
_TENSORSTORE_ERRNO = re.compile(r"\[os_error_code='(\d+)'")


@contextlib.contextmanager
def _damage(folder: Path) -> Iterator[None]:
    """Treat an error as damage unless the machine or the network caused it.

    Raises:
      TryAgain: the file system failed, whichever library reported it.
      PermissionError: the files may not be read.
    """
    try:
        yield
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except TimeoutError as error:
        raise TryAgain(f"{folder} was not read in time; start the same command again") from error
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        if (found := faults.kind(error)) is not None:
            if found != faults.MISSING:
                raise
        elif (number := _errno(error)) is not None and number not in _LOST:
            raise TryAgain(
                f"{folder} can't be read now ({os.strerror(number).lower()}); start the same "
                "command again"
            ) from error
        reason = str(error).split("\n", 1)[0][:200]
        raise Damaged(f"{type(error).__name__}: {reason}") from error


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    match = _TENSORSTORE_ERRNO.search(str(error))
    return match and int(match[1])


def restore_step(
    manager: ocp.CheckpointManager, step: int, template: State
) -> tuple[State, dict[str, Any]]:
    """Return a checkpoint's state and metadata; see `restore_latest`.

    Raises:
      UserError: the checkpoint is of another model.
      Damaged: this process or another can't read it.
    """
    mesh = processes.mesh_of(template)
    flat, damage = _flatten(template), []
    try:
        restored, sums, run = _read(manager, step, flat)
    except Damaged as damaged:
        damage.append(str(damaged))
    for reason in processes.texts_of_all(damage, mesh):
        raise Damaged(reason)
    found = checksums(restored)
    changed = [name for name in found if found[name] != sums[name]]
    if changed:
        raise Damaged(f"the values of {changed[0]} have changed")
    return _unflatten(template, restored), run


def _read(
    manager: ocp.CheckpointManager, step: int, flat: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, int], dict[str, Any]]:
    """Return a checkpoint's arrays, their checksums when they were saved, and its metadata."""
    folder = _folder(manager) / str(step)
    with _damage(folder):
        args = ocp.args.Composite(**{_METADATA: ocp.args.JsonRestore()})
        written = manager.restore(step, args=args)[_METADATA]
        run, layout, sums = (written[name] for name in ("run", _LAYOUT, _CHECKSUMS))
    _check_layout(folder, layout, _layout(flat))
    with _damage(folder):
        abstract = ocp.args.StandardRestore(jax.tree.map(_abstract, flat))
        args = ocp.args.Composite(**{_ARRAYS: abstract})
        return manager.restore(step, args=args)[_ARRAYS], sums, run


def _set_aside(manager: ocp.CheckpointManager, folder: Path, mesh: Mesh | None) -> str:
    aside = folder.with_name(folder.name + _DAMAGED)
    if processes.leads(mesh):
        if aside.exists():
            _remove(aside)
        folder.rename(aside)
    processes.meet(mesh)
    manager.reload()
    return f" and is now called {aside.name}"


def _folder(manager: ocp.CheckpointManager) -> Path:
    return as_path(str(manager.directory))


def _remove(folder: Path) -> None:
    if isinstance(folder, pathlib.Path):
        shutil.rmtree(folder)
    else:
        folder.rmtree()


def _flatten(state: State) -> dict[str, Any]:
    """Return the arrays by their tree paths; random keys become their integers."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {_name(path): _key_data(leaf) for path, leaf in leaves}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)


def _unflatten(template: State, flat: Mapping[str, Any]) -> State:
    def leaf(path: tuple, like: Any) -> Any:
        value = flat[_name(path)]
        return jax.random.wrap_key_data(value, dtype=like.dtype) if _is_key(like) else value

    return jax.tree_util.tree_map_with_path(leaf, template)


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return leaf


def _layout(flat: Mapping[str, Any]) -> dict[str, str]:
    """Return each array's dtype and shape, such as "float32[4,8]"."""
    return {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in flat.items()}


@jax.jit
def _bit_sum(x: Any) -> Any:
    if x.dtype == bool:
        return x.sum(dtype=jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, unsigned).sum(dtype=jnp.uint32)


def checksums(flat: Mapping[str, Any]) -> dict[str, int]:
    """Return the sum of each array's bits; the format on disk has no checksums of its own."""
    # One by one, since they may lie on different devices; all start before the first is awaited.
    sums = {name: _bit_sum(value) for name, value in flat.items()}
    return {name: int(total) for name, total in sums.items()}


def _check_layout(folder: Path, found: dict[str, str], wanted: dict[str, str]) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        there, here = found.get(name, "absent"), wanted.get(name, "absent")
        if there != here:
            raise UserError(
                f"checkpoint {folder} is of another model or stage: {name} is {there} in it, but "
                f"{here} in this run; choose another --workdir, or the config it was written with"
            )


@contextlib.contextmanager
def _full_disk_told(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Raise a `UserError` if the disk is full, and remove what was written of a checkpoint."""
    try:
        yield
    except Exception as error:
        met = full_disk(error, _folder(manager))
        if met is None:
            raise
        for partial in _folder(manager).glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)
        raise UserError(full_disk_message(met)) from None
