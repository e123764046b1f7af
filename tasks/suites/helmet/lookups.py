"""Category Recall: json_kv, and needles in a haystack in HELMET's own layout of rows.

Files: `json_kv/test_k{pairs}_dep6.jsonl` with `context, question, answer, demos, num_kvs, depth`;
`ruler/{niah_multikey_2,niah_multikey_3,niah_multivalue}/validation_{length}.jsonl` with `context,
query or question, type_needle_v, answer or outputs` (RULER's own files have another layout).
"""

from collections.abc import Iterator
from typing import Any

from tasks.errors import UnfitRowError
from tasks.sources.table import list_field, text_field
from tasks.suites.helmet.rows import answers_field, find_file, in_drawn_order
from tasks.suites.helmet.sampling import SHOTS
from tasks.suites.helmet.selection import Item, Selection
from tasks.suites.helmet.wording import Wording, wording

LONGEST_CONTEXT = 10_000_000
ASK = "\n\nExtract the value corresponding to the specified key of the JSON object above.\n\n"
VALUE_LEAD_IN = "Corresponding value:"
FOLDERS = {
    "ruler_niah_mk_2": "niah_multikey_2",
    "ruler_niah_mk_3": "niah_multikey_3",
    "ruler_niah_mv": "niah_multivalue",
}


def json_kv(selection: Selection) -> Iterator[Item]:
    """Yield rows that ask for the value of a key of a JSON object, after two demonstrations."""
    path = find_file("json_kv", selection.data_dir, [f"json_kv/test_k{selection.size}_dep6.jsonl"])
    words = wording(selection.dataset, selection.data_dir, Wording(ask=ASK))
    return in_drawn_order(
        path, lambda number, row: _key_and_value(number, row, words.ask), selection.samples
    )


def needles(selection: Selection) -> Iterator[Item]:
    """Yield rows that ask for the values of a needle."""
    name = f"ruler/{FOLDERS[selection.dataset]}/validation_{selection.length}.jsonl"
    path = find_file(selection.dataset, selection.data_dir, [name])
    several = selection.dataset == "ruler_niah_mv"
    return in_drawn_order(
        path, lambda number, row: _needle(number, row, several), selection.samples
    )


def _key_and_value(number: int, row: Any, ask: str) -> Item:
    question = text_field(row, "question")
    demos = list_field(row, "demos")[:SHOTS]
    if not all(isinstance(d, list) and len(d) == 2 for d in demos) or len(demos) < SHOTS:
        raise UnfitRowError(f"demos that are not {SHOTS} pairs")
    shown = "".join(f"Key: {key}\n{VALUE_LEAD_IN} {value}\n\n" for key, value in demos)
    return Item(
        key=str(number),
        before="",
        context=text_field(row, "context", most=LONGEST_CONTEXT),
        after=f"{ask}{shown}Key: {question}",
        lead_in=VALUE_LEAD_IN,
        truth={"answers": answers_field(row, "answer")},
    )


def _needle(number: int, row: Any, several: bool) -> Item:
    query = text_field(row, "query" if "query" in row else "question")
    # Rows name the type in the singular or the plural.
    kind = text_field(row, "type_needle_v").removesuffix("s") + ("s" if several else "")
    some, are, are_all = ("Some", "are", "are all") if several else ("A", "is", "is")
    asked = f"special magic {kind} for {query} mentioned in the provided text"
    return Item(
        key=str(number),
        before=(
            f"{some} special magic {kind} {are} hidden within the following text. Make sure to "
            f"memorize it. I will quiz you about the {kind} afterwards.\n"
        ),
        context=text_field(row, "context", most=LONGEST_CONTEXT),
        after=f"\nWhat {are_all} the {asked}?",
        lead_in=f"The {asked} {are}",
        truth={"answers": answers_field(row, "answer" if "answer" in row else "outputs")},
    )
