"""Read the rows of data sets that TensorFlow Datasets (TFDS) has prepared, without downloads."""

import posixpath
from collections.abc import Iterator
from typing import Any

import numpy as np

from tasks.errors import TaskInputError


def tfds_rows(folder: str, split: str) -> Iterator[Any]:
    """Yield the rows of a prepared data set as plain Python values: texts, numbers, lists, dicts.

    TensorFlow is loaded here, and kept off accelerators.

    Args:
      folder: where TFDS wrote one version of the data set, such as `…/gsm8k/1.0.0`, local or gs://.
      split: the name of the split in TFDS.

    Raises:
      TaskInputError: the folder can't be read, or has no such split.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise TaskInputError(
            f"{folder} is read by tensorflow-datasets, which does not load ({error}); install it, "
            "or put the data set's own files there"
        ) from None
    tf.config.set_visible_devices([], "GPU")
    try:
        dataset = tfds.builder_from_directory(folder).as_dataset(split=split, shuffle_files=False)
        for row in tfds.as_numpy(dataset):
            yield _plain(row)
    # The libraries raise many kinds of errors for broken folders, AssertionError for missing files.
    except (OSError, ValueError, KeyError, AssertionError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()
        raise TaskInputError(
            f"{folder} can't be read by tensorflow-datasets "
            f"({reason[0] if reason else type(error).__name__}); prepare {split!r} again"
        ) from None


def newest(paths: list[str]) -> str:
    """Return the folder of the highest version, given the `features.json` file of each version."""

    def version(path: str) -> tuple[int, ...]:
        name = posixpath.basename(posixpath.dirname(path))
        parts = name.split(".")
        return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else (-1,)

    return posixpath.dirname(max(paths, key=version))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        # Invalid UTF-8 is refused later, where the text is used.
        return value.decode(errors="surrogateescape")
    if hasattr(value, "to_list"):
        return _plain(value.to_list())
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
