"""The bytes that a compiled program sends between chips, read from the program's text.

A collective in a loop counts once for each trip. The text gives the number of trips if that is
fixed, such as the number of layers or of micro-batches. For a loop whose data decide when it ends,
such as decoding, the bytes of one round are given.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Bytes over the network that joins slices; the compiler hands them to the host.
BETWEEN_SLICES = "between slices"
_TO_OTHER_SLICES = '_xla_host_transfer_handler_name="xla_megascale_runtime"'
_BITS = {"pred": 8, "token": 0}
_ARRAY = re.compile(r"([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][a-z0-9-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")
_TRIPS = re.compile(r'"?known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)"?')
_LESS = re.compile(r"ROOT .* compare\(%?[\w.-]+, %?([\w.-]+)\), direction=LT")
# An operation that runs in parallel with others stands in several fusions, which share a chain.
_CHAIN = re.compile(r'chain_id="(\d+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
# Groups of chips, in the three ways of writing them.
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'(?:=(\d+))?")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that a chip sends, by kind of collective.

    Attributes:
      once: bytes of one run of the program, without the loops of unknown length.
      each_round: bytes of one round of these loops.
    """

    once: dict[str, int]
    each_round: dict[str, int]

    def total(self, rounds: int) -> dict[str, int]:
        """Return the bytes of a run in which the loops of unknown length have `rounds` rounds."""
        kinds = sorted({*self.once, *self.each_round})
        return {k: self.once.get(k, 0) + rounds * self.each_round.get(k, 0) for k in kinds}


def traffic(hlo: str) -> Traffic:
    """Return the bytes that each chip sends to others in a compiled program.

    The count assumes a ring of n chips: each chip sends (n - 1)/n of an array that is gathered,
    scattered or exchanged, twice as much of an all-reduced one, and all of a permuted one. All
    branches of a conditional count. Bytes to other slices are a kind of their own and count once,
    as between two slices.
    """
    found, entry = computations(hlo)
    once: collections.Counter[str] = collections.Counter()
    each_round: collections.Counter[str] = collections.Counter()

    def run(name: str, times: int, into: collections.Counter[str], seen: set[str]) -> None:
        for line in found.get(name, ()):
            match = _OPERATION.match(line)
            if match is None:
                continue
            result, operation = match[1], match[2]
            kind = operation.removesuffix("-start")
            if operation == "send" and _TO_OTHER_SLICES in line:
                into[BETWEEN_SLICES] += times * array_bytes(_elements(result)[0])
            elif kind in COLLECTIVES:
                if _is_new(line, seen):
                    into[kind] += times * _sent(kind, result, operation != kind, line)
            elif operation == "while":
                loop = _LOOP.search(line)
                assert loop is not None, line
                trips = _trips(line, found.get(loop[1], ()))
                if trips is None:
                    run(loop[2], 1, each_round, set())
                else:
                    run(loop[2], times * trips, into, set())
            elif not operation.endswith(("-done", "-update")):
                for one in called(line):
                    run(one, times, into, set() if operation == "conditional" else seen)

    run(entry, 1, once, set())
    return Traffic(dict(once), dict(each_round))


def _is_new(line: str, seen: set[str]) -> bool:
    """Note a collective; return whether it is the first of its chain in a loop's body."""
    chain = _CHAIN.search(line)
    if chain is None:
        return True
    channel = _CHANNEL.search(line)
    name = f"{chain[1]} {channel[1] if channel else ''}"
    if name in seen:
        return False
    seen.add(name)
    return True


def _trips(line: str, condition: Sequence[str]) -> int | None:
    """Return the number of a loop's trips; None if its data decide."""
    noted = _TRIPS.search(line)
    if noted:
        return int(noted[1])
    for root in condition:
        less = _LESS.search(root)
        if less:
            constant = re.compile(rf"%?{re.escape(less[1])} = .* constant\((\d+)\)")
            limits = [found for found in map(constant.search, condition) if found]
            return int(limits[0][1]) if limits else None
    return None


def computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation by its name, and the entry's name."""
    found: dict[str, list[str]] = {}
    name = entry = ""
    for line in hlo.splitlines():
        header = _HEADER.match(line)
        if header:
            name = header[2]
            found[name] = []
            entry = name if header[1] else entry
        elif name and line.strip() != "}":
            found[name].append(line)
    return found, entry


def called(line: str) -> Iterator[str]:
    """Yield the names of the computations that an operation calls, loops left out."""
    yield from _CALLED.findall(line)
    for group in _BRANCHES.findall(line):
        yield from (part.strip().lstrip("%") for part in group.split(","))


def _sent(kind: str, result: str, started: bool, line: str) -> int:
    """Return the bytes that one chip sends in one collective."""
    if kind == "collective-permute":
        return _result_bytes(result, started)
    n = _group_size(line)
    if n <= 1:
        return 0
    size = _result_bytes(result, started and kind == "all-gather")
    if kind == "all-reduce":
        return 2 * size * (n - 1) // n
    if kind == "reduce-scatter":
        return size * (n - 1)
    return size * (n - 1) // n


def _result_bytes(result: str, with_operands: bool) -> int:
    """Return the bytes of a result; the result of a started collective begins with its operands."""
    parts = _elements(result)
    if with_operands and len(parts) >= 2:
        parts = [parts[1]]
    return sum(array_bytes(part) for part in parts)


def _elements(result: str) -> list[str]:
    """Return the elements of a tuple type, which may be tuples; any other type is one element."""
    text = result.strip()
    if not text.startswith("("):
        return [text]
    parts, depth, start = [], 0, 1
    for place, letter in enumerate(text):
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if (letter == "," and depth == 1) or (letter == ")" and depth == 0):
            parts.append(text[start:place])
            start = place + 1
    return parts


def array_bytes(text: str) -> int:
    """Return the bytes of all arrays in a type, without padding."""
    total = 0
    for kind, dims in _ARRAY.findall(text):
        count = math.prod(int(size) for size in dims.split(",") if size)
        bits = _BITS.get(kind)
        if bits is None:
            width = re.search(r"\d+", kind)
            bits = int(width[0]) if width else 8
        total += count * bits // 8
    return total


def _group_size(line: str) -> int:
    """Return how many chips take part in a collective."""
    if iota := _IOTA_GROUPS.search(line):
        return int(iota[2])
    if mesh := _MESH_GROUPS.search(line):
        sizes = {name: int(size or 1) for name, size in _AXIS.findall(mesh[1])}
        return math.prod(sizes[name] for name, _ in _AXIS.findall(mesh[2]))
    groups = _LISTED_GROUPS.search(line)
    return len(groups[1].split(",")) if groups else 1
