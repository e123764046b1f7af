"""The list of a config's fields as text: for the jobs' `--help`, and as the page docs/config.md."""

import textwrap
from collections.abc import Mapping
from typing import Any

from recallm_jax.config.fields import FIELDS, bounds

_NAME_WIDTH = 34
_SECTIONS = {
    "": "The run",
    "model": "The model",
    "mesh": "The mesh",
    "data": "The data",
    "decoding": "Recall spans and responses",
    "reward": "The reward",
    "sft1": "Cold start, phase 1: the embedding rows of the four new tokens",
    "sft2": "Cold start, phase 2: all parameters",
    "grpo": "GRPO and its relatives",
    "ppo": "PPO",
    "optimizer": "AdamW",
    "evaluation": "Evaluation",
    "probe": "The lost-in-thought probe",
    "checkpoint": "Checkpoints",
    "tracking": "Trackers beside TensorBoard",
}


def values(name: str) -> str:
    """Describe the values that a field may have, such as "int, at least 1"."""
    field = FIELDS[name]
    kind = field.kind.__name__
    if field.many:
        kind = f"tuple of {kind}" + ("" if field.empty else ", not empty")
    if field.choices:
        return f"{kind}: {', '.join(map(repr, field.choices))}"
    limits = "" if field.kind in (str, bool) else bounds(field)
    each = "each " if field.many else ""
    return f"{kind}, {each}{limits}" if limits else kind


def columns() -> str:
    """Return a paragraph for every field, in two columns of at most 100 characters together."""
    lines = []
    for name, field in FIELDS.items():
        about = f"{field.about.replace('`', '')} ({values(name)})"
        lines += textwrap.wrap(
            f"  {name:<{_NAME_WIDTH}} {about}",
            width=100,
            subsequent_indent=" " * (_NAME_WIDTH + 3),
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def page(defaults: Mapping[str, Any]) -> str:
    """Return the page docs/config.md.

    Args:
      defaults: the value of every field in configs/common.py, by its dotted name.
    """
    sections: dict[str, list[str]] = {section: [] for section in _SECTIONS}
    for name, field in FIELDS.items():
        section = name.partition(".")[0] if "." in name else ""
        cells = (f"`{name}`", values(name), f"`{defaults[name]!r}`", field.about)
        sections[section].append("| " + " | ".join(cells) + " |")
    head = "| field | values | default | meaning |\n|---|---|---|---|\n"
    tables = [
        f"## {_SECTIONS[section]}\n\n{head}" + "\n".join(rows) for section, rows in sections.items()
    ]
    return "\n\n".join([_INTRODUCTION, *tables]) + "\n"


_INTRODUCTION = """\
# Fields of a config

A config file of `configs/` sets every field of this page, and the command line overrides any of \
them: `--config.grpo.steps=20`. Several values have commas between them: \
`--config.evaluation.lengths=512,1024`. Nothing has a hidden default: a config that lacks a \
field is refused, and so is one with a field that is not listed here. A section that no stage of \
the run uses is ignored.

The defaults are those of `configs/common.py`, which every config starts from. `--help` of a job \
prints the same list. This page is made by `make docs` from `recallm_jax/config/fields.py`."""
