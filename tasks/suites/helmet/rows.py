"""Find HELMET's files and read their rows one at a time, since a file may hold gigabytes."""

import collections
import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import fsspec

from storage.files import told
from tasks.errors import TaskInputError, UnfitRowError
from tasks.sources.table import find, list_field, read_line, read_rows
from tasks.suites.helmet.sampling import shuffled

Raw = TypeVar("Raw")
Made = TypeVar("Made")
# The data folder may be HELMET's, a folder with HELMET's as `helmet`, or a clone of its repository.
FOLDERS = ("", "helmet/", "data/")
WHERE = (
    "HELMET's data.tar.gz (huggingface.co/datasets/princeton-nlp/HELMET; "
    "github.com/princeton-nlp/HELMET says how to get it)"
)


@dataclasses.dataclass(frozen=True)
class Rows(Sequence):
    """The raw rows of a file; a malformed row is an UnfitRowError.

    For plain JSONL only the positions of the lines are held in memory, otherwise all rows.
    """

    path: str
    places: tuple[int, ...]
    whole: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.places) or len(self.whole)

    def __getitem__(self, number):
        if not self.places:
            return self.whole[number]
        with _opened(self.path) as file:
            file.seek(self.places[number])
            return read_line(file.readline())

    def __iter__(self) -> Iterator[Any]:
        if not self.places:
            yield from self.whole
            return
        with _opened(self.path) as file:
            yield from (read_line(line) for line in file if line.strip())


def _opened(path: str):
    try:
        with told(path):
            return fsspec.open(path, "rb").open()
    except (OSError, ValueError) as error:
        raise TaskInputError(f"{path} can't be read ({error})") from None


def find_file(dataset: str, data_dir: str, names: Sequence[str], where: str = WHERE) -> str:
    """Return the path of the first of these files that exists.

    Raises:
      TaskInputError: there is no data folder, or none of the files.
    """
    wanted = " or ".join(names)
    if not data_dir:
        raise TaskInputError(
            f"{dataset} needs files: set config.data.dir to the folder that holds {wanted}, "
            f"from {where}"
        )
    found = find(data_dir, [folder + name for name in names for folder in FOLDERS])
    if not found:
        raise TaskInputError(
            f"config.data.dir = {data_dir!r} has no {wanted} for {dataset}; get it from {where}"
        )
    return found[0]


@functools.lru_cache(maxsize=16)
def open_rows(path: str) -> Rows:
    """Open the rows of a file; its lines are found once a process.

    Raises:
      TaskInputError: the file can't be read, or holds no row.
    """
    if not path.endswith(".jsonl"):
        rows = Rows(path, (), tuple(read_rows(path)))
    else:
        places, place = [], 0
        with _opened(path) as file:
            for line in file:
                if line.strip():
                    places.append(place)
                place += len(line)
        rows = Rows(path, tuple(places), ())
    if not rows:
        raise TaskInputError(f"{path} holds no row; download it again")
    return rows


def read_object(path: str) -> dict[str, Any]:
    """Read the object that a JSON file holds.

    Raises:
      TaskInputError: the file can't be read, or holds something else.
    """
    try:
        with _opened(path) as file:
            content = json.load(file)
        check_row(content)
    except UnfitRowError as error:
        raise TaskInputError(f"{path}: {error}; download it again") from None
    except (ValueError, RecursionError) as error:
        raise TaskInputError(f"{path} is not JSON ({error}); download it again") from None
    return content


def check_row(row: Any) -> None:
    """Refuse a malformed row.

    Raises:
      UnfitRowError: the row was malformed in the file, is not an object, or is not valid Unicode.
    """
    if isinstance(row, UnfitRowError):
        raise row
    if not isinstance(row, dict):
        raise UnfitRowError("a row that is not an object")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UnfitRowError("not valid Unicode") from None


def title_field(passage: Any) -> str:
    """Return the title of a passage, which may be blank.

    Raises:
      UnfitRowError: there is no title.
    """
    title = passage.get("title") if isinstance(passage, dict) else None
    if not isinstance(title, str):
        raise UnfitRowError("a passage without title")
    return title


def answers_field(row: Any, name: str) -> list[str]:
    """Return the answers of a row: a text, or a list of texts and numbers.

    Raises:
      UnfitRowError: there is no answer, or a blank one.
    """
    value = row.get(name)
    values = list_field(row, name) if isinstance(value, list) else [value]
    if not all(isinstance(v, str | int) and str(v).strip() for v in values):
        raise UnfitRowError(f"no {name}")
    return [str(v) for v in values]


def usable(
    path: str,
    rows: Iterable[tuple[int, Any]],
    parse: Callable[[int, Any], Made],
    most: int | None = None,
) -> Iterator[Made]:
    """Parse the usable rows of a file and yield the results; see `skipping`."""

    def made(number: int, row: Any) -> Made:
        check_row(row)
        return parse(number, row)

    return skipping(path, rows, made, most)


def in_drawn_order(
    path: str,
    parse: Callable[[int, Any], Made],
    most: int,
    kept: Callable[[Any], bool] | None = None,
) -> Iterator[Made]:
    """Parse at most `most` usable rows of a file, in the order that the benchmark draws.

    Args:
      kept: whether the benchmark draws from a row at all; None: from every one.
    """
    rows = open_rows(path)
    numbers = [n for n in range(len(rows)) if kept is None or kept(rows[n])]
    drawn = (numbers[place] for place in shuffled(len(numbers)))
    return usable(path, ((number, rows[number]) for number in drawn), parse, most)


def skipping(
    name: str,
    rows: Iterable[tuple[int, Raw]],
    make: Callable[[int, Raw], Made],
    most: int | None = None,
) -> Iterator[Made]:
    """Yield `make(number, row)` for at most `most` usable rows; count the others in the log.

    Args:
      name: the file or the task, for the messages.
      rows: the rows with their numbers.
      make: makes something from a row, or raises UnfitRowError with a short reason.

    Raises:
      TaskInputError: no row is usable.
    """
    skipped: collections.Counter[str] = collections.Counter()
    count = 0
    for number, row in rows:
        if count == most:
            break
        try:
            made = make(number, row)
        except UnfitRowError as error:
            skipped[str(error)] += 1
            continue
        count += 1
        yield made
    reasons = ", ".join(f"{reason} ({times})" for reason, times in skipped.most_common())
    if not count and most != 0:
        raise TaskInputError(f"{name} has no row that can be used: {reasons or 'it is empty'}")
    if skipped:
        logging.getLogger(__name__).warning(
            "%s: %d rows left out: %s", name, skipped.total(), reasons
        )
