"""Read numbers as answers write them, and draw wrong ones among the answers to other problems."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np

from tasks.errors import UnfitRowError

# Wrong numbers come from a group of this many that are neighbours by size.
GROUP = 12
MOST_DIGITS = 12

Look = tuple[str, int, str, str]
# The counts of answers that are neighbours by size.
Group = Mapping[Fraction, int]

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
      style: "plain", with `places` after the point and, if `commas`, commas between thousands;
        "frac", a LaTeX fraction; or "slash", such as 3/4.
      before, after: a dollar sign and a unit, "" for none.
    """

    value: Fraction
    style: str = "plain"
    places: int = 0
    commas: bool = False
    before: str = ""
    after: str = ""

    @property
    def look(self) -> Look:
        """What numbers that are written alike have in common."""
        return self.style, self.places, self.before, self.after

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
        return Number(value, style, before=before, after=after)
    whole, part = re.sub(r"\D", "", match["whole"]), match["part"] or ""
    if not whole and not part:
        return None
    return Number(
        sign * Fraction(int(whole + part), 10 ** len(part)),
        places=len(part),
        commas=len(whole) > 3 and whole != match["whole"],
        before=before,
        after=after,
    )


def groups(numbers: Iterable[Number]) -> Mapping[tuple[Look, Fraction], Group]:
    """Return the group that the options of an answer come from, by its look and value.

    The answers that are written alike are put into groups of neighbours by size, in which none has
    more than a quarter of the answers. All of a group have the same one, so that each may be the
    right one among the others.
    """
    alike: dict[Look, collections.Counter[Fraction]] = {}
    for number in numbers:
        alike.setdefault(number.look, collections.Counter())[number.value] += 1
    found: dict[tuple[Look, Fraction], Group] = {}
    for look, counts in alike.items():
        parts: list[dict[Fraction, int]] = [{}]
        for value in sorted(counts):
            if _is_full(parts[-1]):
                parts.append({})
            parts[-1][value] = counts[value]
        if len(parts) > 1 and not _is_full(parts[-1]):
            rest = parts.pop()
            parts[-1] |= rest
        found |= {(look, value): part for part in parts for value in part}
    return found


def _is_full(group: Group) -> bool:
    return len(group) >= GROUP and 4 * max(group.values()) <= sum(group.values())


def wrong_numbers(rng: np.random.Generator, number: Number, group: Group) -> list[Number]:
    """Draw three other numbers of a group, written like the number.

    Each number of the group has its count as its share of a line, in random order. The four options
    lie a quarter of the line apart, the right one at a uniform place of its share: whatever four
    come together, each of them is the right one equally often. None may have more than a quarter,
    so that four differ.

    Raises:
      UnfitRowError: the group has fewer.
    """
    if len(group) < 4:
        raise UnfitRowError("an answer written like fewer than three others")
    values = list(group)
    order = rng.permutation(len(values))
    counts = np.array([group[values[i]] for i in order])
    shares = (np.minimum(counts, most) for most in sorted(counts, reverse=True))
    share = next(share for share in shares if 4 * share.max() <= share.sum())
    ends = np.cumsum(share)
    right = order.tolist().index(values.index(number.value))
    place = ends[right] - share[right] * rng.random()
    drawn = np.searchsorted(ends, (place + np.array([1, 2, 3]) * ends[-1] / 4) % ends[-1])
    return [dataclasses.replace(number, value=values[order[i]]) for i in drawn]
