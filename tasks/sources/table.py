"""Find and read the files of data sets, and check their rows.

Folders are local or remote (`gs://…`), read by fsspec. A row that can't be used is left out and
counted by its reason. If files are missing, one error says where to get them.
"""

import collections
import csv
import dataclasses
import functools
import io
import itertools
import json
import logging
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from storage.files import reading, told
from tasks.errors import TaskInputError, UnfitRowError
from tasks.sources.tfds_rows import newest, tfds_rows

Row = TypeVar("Row")
# A CSV field may be longer than the reader's default limit, but not longer than this.
MAX_FIELD = 10_000_000
# If one file serves both splits, a tenth of its rows is for validation.
VALIDATION_SHARE = 10
HELD_OUT = "a question of a validation row"
# Texts that tokenizers read as control tokens, wherever they stand.
_CONTROL = re.compile(r"<\|\w+\|>|</?think>")


@dataclasses.dataclass(frozen=True)
class Source(Generic[Row]):
    """The files of one data set.

    Attributes:
      files: for each split, patterns of file names under the data folder. All files of the first
        pattern that matches any are read.
      where: where to get the files, in a few words.
      parse: makes a row from a raw one, or raises UnfitRowError with a short reason.
      key: rows with equal keys are duplicates, of which the first is kept.
      asks: what a row asks; training leaves out the rows that ask what a validation row asks. None
        stands for `key`.
      group: if one file serves both splits, rows of one group are all in the same split; None if
        each row is a group of its own.
      shares: whether the file of one split can serve both, each with a share of its rows; False if
        the reader divides them itself, or there is only one split.
      read: yields the raw rows of a file; None stands for `read_rows`.
      tfds: for each split, the data set's name in TFDS (with its config, such as
        `trivia_qa/rc.nocontext`) and its split there; it is read from the data folder if no file
        matches.
    """

    dataset: str
    files: Mapping[str, Sequence[str]]
    where: str
    parse: Callable[[Any], Row]
    key: Callable[[Row], Any]
    asks: Callable[[Row], Any] | None = None
    group: Callable[[Row], Any] | None = None
    shares: bool = True
    read: Callable[[str], Iterator[Any]] | None = None
    tfds: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.dataset)


@dataclasses.dataclass(frozen=True)
class Table(Generic[Row]):
    """The usable rows of a split, and the number of rows left out for each reason."""

    rows: tuple[Row, ...]
    skipped: Mapping[str, int]


@functools.lru_cache(maxsize=64)
def read_table(source: Source[Row], data_dir: str, split: str) -> Table[Row]:
    """Read the rows of a split, once a process.

    If only one split has files, both are drawn from these: a tenth of the rows, chosen by a hash,
    is for validation, and the others are for training. Training and validation share no question:
    a training row that asks what a validation row asks is left out.

    Raises:
      TaskInputError: there is no data folder, no such file, or no usable row in it.
    """
    if not data_dir:
        raise TaskInputError(
            f"dataset {source.dataset} needs files: set config.data.dir to the folder that holds "
            f"{_patterns(source, split)} ({source.where}), or its share of the mixture to 0"
        )
    other = "validation" if split == "train" else "train"
    own, others = (_stored(source, data_dir, name) for name in (split, other))
    found, shared = own or others, source.shares and not (own and others)
    if not found:
        raise TaskInputError(
            f"config.data.dir = {data_dir!r} has no {_patterns(source, split)} for dataset "
            f"{source.dataset}; get it from {source.where}"
        )
    asks = source.asks or source.key
    # The same files for both splits, unless shared, are divided by the reader.
    apart = shared or (own and others and own.keys() != others.keys())
    held_out = _asked(source, data_dir, asks) if split == "train" and apart else frozenset()
    rows: dict[Any, Row] = {}
    skipped: collections.Counter[str] = collections.Counter()
    of_other_split = 0
    for raw in itertools.chain.from_iterable(found.values()):
        try:
            if isinstance(raw, UnfitRowError):
                raise raw
            row = source.parse(raw)
            key = source.key(row)
            if key in rows:
                raise UnfitRowError("a duplicate of another row")
        except UnfitRowError as error:
            skipped[str(error)] += 1
            continue
        part = _part(source.group(row) if source.group else key)
        if shared and (part == 0) != (split == "validation"):
            of_other_split += 1
        elif asks(row) in held_out:
            skipped[HELD_OUT] += 1
        else:
            rows[key] = row
    if skipped:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in skipped.most_common())
        logging.getLogger(__name__).warning(
            "%s %s: %d rows left out: %s", source.dataset, split, skipped.total(), reasons
        )
    if not rows and of_other_split:
        raise TaskInputError(
            f"none of the {of_other_split} rows of {', '.join(found)} is for {split}: a tenth, by "
            f"a hash, is for validation; give {_patterns(source, split)} too, with rows for {split}"
        )
    if not rows and skipped[HELD_OUT]:
        raise TaskInputError(
            f"all {skipped[HELD_OUT]} usable rows of {', '.join(found)} ask what rows for "
            f"validation ask; give {_patterns(source, split)} with other questions"
        )
    if not rows:
        raise TaskInputError(
            f"{', '.join(found)} holds no usable row for {source.dataset} {split} "
            f"({skipped.total()} left out: {', '.join(skipped) or 'it is empty'}); "
            f"get it from {source.where}"
        )
    return Table(tuple(rows.values()), dict(skipped))


def _asked(source: Source, data_dir: str, asks: Callable[[Any], Any]) -> frozenset:
    """Return what the rows for validation ask; nothing if there are none."""
    try:
        return frozenset(map(asks, read_table(source, data_dir, "validation").rows))
    except TaskInputError:
        return frozenset()


def _part(key: Any) -> int:
    return zlib.crc32(repr(key).encode()) % VALIDATION_SHARE


def is_stored(source: Source, data_dir: str) -> bool:
    """Return whether a folder has files of any split of a data set."""
    return any(_stored(source, data_dir, split) for split in ("train", "validation"))


def files_of(source: Source, data_dir: str, split: str) -> frozenset[str]:
    """Return the files that the rows of a split come from: its own, or those of the other one."""
    other = "validation" if split == "train" else "train"
    return frozenset(_stored(source, data_dir, split) or _stored(source, data_dir, other))


def _stored(source: Source, data_dir: str, split: str) -> dict[str, Iterator[Any]]:
    """Return the rows of each file of a split, or else those that TFDS prepared."""
    paths = find(data_dir, source.files.get(split, ()))
    if paths or split not in source.tfds:
        return {path: (source.read or read_rows)(path) for path in paths}
    name, part = source.tfds[split]
    versions = find(data_dir, [f"{name}/*/features.json"])
    if not versions:
        return {}
    folder = newest(versions)
    return {folder: tfds_rows(folder.removeprefix("file://"), part)}


def _patterns(source: Source, split: str) -> str:
    patterns = list(source.files.get(split) or next(iter(source.files.values())))
    if source.tfds:
        name = (source.tfds.get(split) or next(iter(source.tfds.values())))[0]
        patterns.append(f"{name} prepared by TFDS")
    return " or ".join(patterns)


def find(data_dir: str, patterns: Sequence[str]) -> list[str]:
    """Return the files under a folder that match the first pattern to match any, sorted.

    If no pattern matches, the patterns with .gz added are tried.
    """
    import fsspec

    try:
        packed = [f"{pattern}.gz" for pattern in patterns if not pattern.endswith(("*", ".gz"))]
        with told(data_dir):
            files, root = fsspec.core.url_to_fs(data_dir)
            for pattern in (*patterns, *packed):
                found = sorted(files.glob(f"{root.rstrip('/')}/{pattern}"))
                if found:
                    return [files.unstrip_protocol(path) for path in found]
    except (OSError, ValueError, ImportError) as error:
        raise TaskInputError(
            f"config.data.dir = {data_dir!r} can't be read ({error}); give a folder, local or gs://"
        ) from None
    return []


def read_rows(path: str) -> Iterator[Any]:
    """Yield the raw rows of a file: JSONL, CSV, TSV, Parquet, or a JSON list (or object's "data").

    Any other JSON object is one row. A malformed row is yielded as an UnfitRowError, to be counted.
    Files may be compressed (.gz).

    Raises:
      TaskInputError: the file can't be read, or is not JSON.
    """
    try:
        with reading(path) as file:
            content = file.read()
    # Damaged archives raise the last two.
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise TaskInputError(f"{path} can't be read ({error})") from None
    name = path.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        yield from _read_csv(content, "\t" if name.endswith(".tsv") else ",")
    # QuALITY's files end in the name of their split.
    elif name.endswith((".jsonl", ".train", ".dev")):
        yield from map(read_line, filter(bytes.strip, content.splitlines()))
    elif name.endswith(".parquet"):
        yield from _read_parquet(path, content)
    else:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise TaskInputError(f"{path} is not JSON ({error}); download it again") from None
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            value = value["data"]
        elif isinstance(value, dict):
            value = [value]
        if not isinstance(value, list):
            raise TaskInputError(f"{path} holds no list of rows; download it again")
        yield from value


def read_line(line: bytes) -> Any:
    """Return the row of a line of JSONL; an UnfitRowError, to be counted, if it is malformed."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return UnfitRowError("a line that is not JSON")


def _read_csv(content: bytes, delimiter: str) -> Iterator[Any]:
    csv.field_size_limit(MAX_FIELD)
    text = content.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            broken = any(
                isinstance(value, str) and not value.isascii() and _is_broken(value)
                for value in row.values()
            )
            yield UnfitRowError("not UTF-8") if broken else row
    except csv.Error as error:
        yield UnfitRowError(f"not CSV from here on ({error})")


def _read_parquet(path: str, content: bytes) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(io.BytesIO(content)).iter_batches():
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TaskInputError(
            f"{path} is not a Parquet file ({reason}); download it again"
        ) from None


def _is_broken(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def text_field(row: Any, name: str, *, most: int = 1_000_000) -> str:
    """Return a field of a raw row that must be a text and not blank, in Unicode's form NFC.

    Some tokenizers normalise to that form, and tokens must have exact places in the text.

    Raises:
      UnfitRowError: it is missing, not a text, blank, or longer than `most` characters.
    """
    if not isinstance(row, Mapping):
        raise UnfitRowError("a row that is not an object")
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UnfitRowError(f"no {name}")
    if len(value) > most:
        raise UnfitRowError(f"{name} is absurdly long")
    if _is_broken(value) or any("\ud800" <= character <= "\udfff" for character in value):
        raise UnfitRowError(f"{name} is not valid Unicode")
    return unicodedata.normalize("NFC", value.strip())


def plain_text(row: Any, name: str, *, most: int = 1_000_000) -> str:
    """Return a text field in Unicode's composed form, which tokenizers do not change.

    Raises:
      UnfitRowError: see `text_field`; or it holds a control token, such as <|im_end|>.
    """
    value = text_field(row, name, most=most)
    if _CONTROL.search(value):
        raise UnfitRowError(f"{name} holds a control token")
    return value


def list_field(row: Any, name: str) -> list:
    """Return a field of a raw row that must be a list with at least one item.

    Raises:
      UnfitRowError: it is missing, not a list, or empty.
    """
    value = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(value, list) or not value:
        raise UnfitRowError(f"no {name}")
    return value


def pick(rows: Sequence[Row], stream: int, index: int, attempt: int) -> Row:
    """Return row `index` of an endless shuffle of the rows; each comes once before any repeats.

    Args:
      attempt: each further attempt returns another row, since rows may turn out unfit.
    """
    from tasks.prompts.context import generator

    epoch, place = divmod(index + attempt * (1 + len(rows) // 3), len(rows))
    order = generator("order", stream, epoch).permutation(len(rows))
    return rows[int(order[place])]
