"""Read numbers as answers write them, and draw wrong numbers near them that look alike."""

import dataclasses
import re
from fractions import Fraction

import numpy as np

# The distances of wrong numbers from the right one, in its steps.
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 20)
MOST_DIGITS = 12

_UNIT = r"(?:\s*(?:\\?%|\^\s*\\circ|\^\s*\{\\circ\}|\\(?:text|mbox|mathrm)\s?\{[^{}]{0,40}\}))*"
_PLAIN = r"(?P<whole>\d{1,3}(?:(?:,|\{,\}|,\\!|\\,)\d{3})+|\d*)(?:\.(?P<part>\d+))?"
_FRACTION = (
    r"\\[dt]?frac\s*(?:\{(?P<top>-?\d+)\}|(?P<top1>\d))\s*(?:\{(?P<under>\d+)\}|(?P<under1>\d))"
    r"|(?P<over>\d+)/(?P<below>\d+)"
)
_NUMBER = re.compile(
    rf"(?P<before>(?:\\?\$)?)(?P<sign>-?)(?:(?P<fraction>{_FRACTION})|{_PLAIN})(?P<unit>{_UNIT})"
)


@dataclasses.dataclass(frozen=True)
class Number:
    """A number with the way it is written.

    Attributes:
      step: the smallest difference between numbers that are written alike and equally round.
      style: "plain", with `places` after the point and, if `commas`, commas between thousands;
        "frac", a LaTeX fraction; or "slash", such as 3/4.
      before, after: a dollar sign and a unit, "" for none.
    """

    value: Fraction
    step: Fraction
    style: str = "plain"
    places: int = 0
    commas: bool = False
    before: str = ""
    after: str = ""

    @property
    def text(self) -> str:
        """The number as it is written."""
        sign, size = "-" if self.value < 0 else "", abs(self.value)
        if self.style == "plain":
            whole = int(size * 10**self.places)
            head, tail = divmod(whole, 10**self.places)
            written = f"{head:,}" if self.commas else str(head)
            written += f".{tail:0{self.places}d}" if self.places else ""
        elif size.denominator == 1:
            written = str(size.numerator)
        elif self.style == "frac":
            written = f"\\frac{{{size.numerator}}}{{{size.denominator}}}"
        else:
            written = f"{size.numerator}/{size.denominator}"
        return f"{self.before}{sign}{written}{self.after}"


def parse_number(text: str) -> Number | None:
    """Read a LaTeX text as a number; None if it is anything else."""
    text = text.strip()
    if text.startswith("$") and text.endswith("$") and len(text) > 1:
        text = text[1:-1].strip()
    match = _NUMBER.fullmatch(text)
    if match is None or sum(map(str.isdecimal, text)) > MOST_DIGITS:
        return None
    before, after = match["before"] and "\\$", match["unit"]
    sign = -1 if match["sign"] else 1
    if match["fraction"]:
        top = match["top"] or match["top1"] or match["over"]
        under = int(match["under"] or match["under1"] or match["below"])
        if not under:
            return None
        value = sign * Fraction(int(top), under)
        style = "slash" if match["over"] else "frac"
        return Number(value, Fraction(1, value.denominator), style, before=before, after=after)
    whole, part = re.sub(r"\D", "", match["whole"]), match["part"] or ""
    if not whole and not part:
        return None
    digits = int(whole + part)
    return Number(
        sign * Fraction(digits, 10 ** len(part)),
        _grid(digits) / 10 ** len(part),
        places=len(part),
        commas=len(whole) > 3 and whole != match["whole"],
        before=before,
        after=after,
    )


def _grid(number: int) -> Fraction:
    """Return the power of ten to which a number is round, two digits left: 10 for 240."""
    grid = 1
    while number >= 100 * grid and number % (10 * grid) == 0:
        grid *= 10
    return Fraction(grid)


def wrong_numbers(rng: np.random.Generator, number: Number) -> list[Number]:
    """Draw three other numbers that are written alike, in any order.

    The count of smaller ones is drawn first, from 0 to 3, so that the right number has each rank
    equally often. Wrong numbers for a positive number are positive, so there may be fewer smaller
    ones.
    """
    value, step = number.value, number.step
    steps = {Fraction(n) * step for n in STEPS}
    # Half, a quarter and a tenth of the number.
    steps |= {abs(value) // (part * step) * step for part in (2, 4, 10)} - {Fraction(0)}
    near = {value - off for off in steps} | {value + off for off in steps} | {2 * value}
    if value > 0:
        near = {other for other in near if other > 0 or (other == 0 and step >= 1)}
    smaller = sorted(other for other in near if other < value)
    larger = sorted(other for other in near if other > value)
    num_smaller = min(int(rng.integers(4)), len(smaller))
    drawn = [smaller[i] for i in rng.permutation(len(smaller))[:num_smaller]]
    drawn += [larger[i] for i in rng.permutation(len(larger))[: 3 - num_smaller]]
    return [dataclasses.replace(number, value=drawn[i]) for i in rng.permutation(3)]
