"""Loading TensorFlow, which comes with SeqIO and TensorBoard, without its lines about drivers."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def hidden_stderr() -> Iterator[None]:
    """Drop the output of native code on standard error; errors are raised as ever."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
