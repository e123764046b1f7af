"""A user's reward that hangs for some prompts of training, the same ones in every run."""

import time
import zlib


def score(response, spans, asked):
    """Return half of the reward, or nothing for an hour."""
    if "train" in asked.example_id and zlib.crc32(asked.example_id.encode()) % 5 == 0:
        time.sleep(3600)
    return 0.5
