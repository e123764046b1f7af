"""Write docs/config.md from the fields of the config and their defaults: run by `make docs`."""

from pathlib import Path

from configs.common import base
from recallm_jax.config.load import flatten
from recallm_jax.config.reference import page

if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(page(flatten(base())), encoding="utf-8")
