"""RULER's variable tracking (vt): a chain of assignments among noise."""

import functools
import itertools
import string

import numpy as np

from tasks.prompts.fitting import TokenCounter, largest_fit
from tasks.suites.ruler.niah import in_lines
from tasks.suites.ruler.prompts import NOISE, VT, VT_PREFIX, Prompt, RowSpec, Sized, filled

HOPS = 4
# The most tokens of the worked example; at short target lengths a third of the length.
EXAMPLE_TOKENS = 500
_LETTERS = np.array(list(string.ascii_uppercase))


def variable_tracking(spec: RowSpec) -> Sized:
    """Draw a row with any number of noise lines, after a worked example.

    Difference from the benchmark: the noise of the worked example is drawn for each row too (there
    one example serves all rows, with new names and a new value each time).
    """
    rng = spec.rng()
    names, value = _chain(rng, 5)
    budget = min(EXAMPLE_TOKENS, spec.length // 3)
    example = _worked_example(spec, value, budget)

    def prompt(size: int) -> Prompt:
        return _row(names, value, size, spec.rng(f"places/{size}"), example)

    return Sized(prompt, spec.length)


def _chain(rng: np.random.Generator, letters: int, other: str = "") -> tuple[list[str], str]:
    """Draw the names of a chain and its value, which differs from `other`."""
    names: list[str] = []
    while len(names) <= HOPS:
        name = "".join(rng.choice(_LETTERS, letters))
        if name not in names:
            names.append(name)
    while (value := str(rng.integers(10_000, 99_999))) == other:
        pass
    return names, value


def _row(
    names: list[str], value: str, size: int, rng: np.random.Generator, example: str = ""
) -> Prompt:
    lines = [f"VAR {names[0]} = {value}"]
    lines += [f"VAR {b} = VAR {a} " for a, b in itertools.pairwise(names)]
    context, ranges = in_lines([NOISE] * size, lines, rng)
    # The space at the end of a line is not part of the assignment.
    gold = [(low, low + len(context[low:high].rstrip())) for low, high in ranges]
    return filled(
        VT, VT_PREFIX, context, gold, names, before=example, value=value, count=len(names)
    )


def _worked_example(spec: RowSpec, other_value: str, budget: int) -> str:
    """Return the longest example with its answer that has at most `budget` tokens.

    It may be longer if even an example without noise is.
    """
    names, value = _chain(spec.rng("example"), 3, other_value)
    counter = TokenCounter(spec.tokenizer)

    @functools.cache
    def text(size: int) -> str:
        row = _row(names, value, size, spec.rng(f"example/{size}"))
        return f"{row.input}{row.prefix} {' '.join(names)}\n\n"

    least = counter(text(0))
    return text(largest_fit(lambda size: counter(text(size)), max(budget, least), budget))
