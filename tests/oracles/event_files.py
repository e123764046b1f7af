"""Event files as TensorBoard itself reads them."""

import pathlib

from tensorboard.backend.event_processing import event_accumulator


def curves(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Return the (step, value) pairs of each curve."""
    read = event_accumulator.EventAccumulator(str(folder))
    read.Reload()
    return {
        tag: [(event.step, event.value) for event in read.Scalars(tag)]
        for tag in read.Tags()["scalars"]
    }
