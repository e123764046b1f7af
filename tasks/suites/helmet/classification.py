"""Category ICL: label a short text after many labelled examples.

HELMET loads these data sets from Hugging Face; here they are exports (CSV or JSONL) with the same
fields. The first file that exists is read:

* trec_coarse, trec_fine: `trec_{train,test}.*` with `text, coarse_label, fine_label`;
* banking77: `banking77_{train,test}.*` with `text, label`, or the original CSV's `text, category`;
* clinic150: `clinc150_plus_{train,val}.*` or `clinc_oos_plus_{train,validation}.*` with
  `text, intent` (the out-of-scope intent is a label too);
* nlu: `nlu_evaluation_data.*` with `text, label`; a tenth is for tests. Other data sets of home
  assistants, such as SLURP, have another number of labels and are refused.

Labels that are numbers are kept; Hugging Face's numbers are those of HELMET's prompts. Names are
numbered in alphabetical order without regard to case, which is banking77's own order.
"""

import dataclasses
import functools
import math
import random
from collections.abc import Iterator
from typing import Any

from tasks.errors import TaskInputError
from tasks.sources.table import text_field
from tasks.suites.helmet.rows import find_file, open_rows, usable
from tasks.suites.helmet.sampling import SEED, balanced, shuffled, text_seed
from tasks.suites.helmet.selection import Item, Selection
from tasks.suites.helmet.wording import Wording, wording

LEAD_IN = "label:"
# The braces are written as they are.
INSTRUCTION = (
    "The texts below are given with their labels. Label the last text in the same way. "
    'Output only "label: {label}" and nothing else.\n\n'
)
TEST_SHARE = 0.1
ENDINGS = ("csv", "jsonl", "tsv", "json")

# The fields of the label, the number of labels, and the beginnings of both files' names.
SETS = {
    "icl_trec_coarse": (("coarse_label",), 6, (("trec_train", "trec_test"),)),
    "icl_trec_fine": (("fine_label",), 50, (("trec_train", "trec_test"),)),
    "icl_banking77": (("label", "category"), 77, (("banking77_train", "banking77_test"),)),
    "icl_clinic150": (
        ("intent",),
        151,
        (
            ("clinc150_plus_train", "clinc150_plus_val"),
            ("clinc_oos_plus_train", "clinc_oos_plus_validation"),
        ),
    ),
    "icl_nlu": (("label",), 68, (("nlu_evaluation_data", ""),)),
}
WHERE = {
    "icl_trec_coarse": "CogComp/trec on Hugging Face",
    "icl_trec_fine": "CogComp/trec on Hugging Face",
    "icl_banking77": "PolyAI/banking77 on Hugging Face, or PolyAI-LDN/task-specific-datasets",
    "icl_clinic150": "clinc_oos (plus) on Hugging Face, or clinc/oos-eval",
    "icl_nlu": "xingkunliuxtracta/nlu_evaluation_data on Hugging Face",
}

Labelled = tuple[str, str]


def labels(selection: Selection) -> Iterator[Item]:
    """Yield texts to be labelled after `selection.size` examples, all drawn by rounds of labels.

    The labels shown are integers, in a new permutation for every text.
    """
    train, tests = read_splits(selection.dataset, selection.data_dir)
    words = wording(selection.dataset, selection.data_dir, Wording(INSTRUCTION))
    numbers = _label_numbers(selection.dataset, train)
    test = list(tests)
    if len(test) > selection.samples:
        test = balanced(
            [test[number] for number in shuffled(len(test))], _label, selection.samples, SEED
        )
    for number, (text, label) in enumerate(test):
        if label not in numbers:
            raise TaskInputError(
                f"{selection.dataset}: the label {label!r} of a test row is in no training row; "
                f"get both files from {WHERE[selection.dataset]}"
            )
        made = _item(number, text, label, selection.size, train, numbers)
        yield dataclasses.replace(made, before=words.instruction)


def _item(number, text, label, shots, train, numbers) -> Item:
    seed = text_seed(text, plus=SEED)
    shown = list(range(len(numbers)))
    random.Random(seed).shuffle(shown)
    demos = [
        f"{demo}\n{LEAD_IN} {shown[numbers[name]]}"
        for demo, name in balanced(train, _label, shots, seed)
    ]
    return Item(
        key=str(number),
        before="",
        context="\n\n".join(demos),
        after=f"\n\n{text}",
        lead_in=LEAD_IN,
        truth={"answers": [str(shown[numbers[label]])]},
    )


def _label(row: Labelled) -> str:
    return row[1]


def _label_numbers(dataset: str, train: tuple[Labelled, ...]) -> dict[str, int]:
    names = {label for _, label in train}
    expected = SETS[dataset][1]
    if len(names) != expected:
        raise TaskInputError(
            f"{dataset}: the training rows have {len(names)} labels where the data set has "
            f"{expected}; this is another data set or a part, get it from {WHERE[dataset]}"
        )
    if names == {str(number) for number in range(expected)}:
        return {name: int(name) for name in names}
    return {name: n for n, name in enumerate(sorted(names, key=lambda x: (x.lower(), x)))}


@functools.lru_cache(maxsize=8)
def read_splits(dataset: str, data_dir: str) -> tuple[tuple[Labelled, ...], tuple[Labelled, ...]]:
    """Read the training rows and the test rows, each a text and its label.

    Raises:
      TaskInputError: a file is missing, or holds no usable row.
    """
    names = SETS[dataset][2]
    train = _read(dataset, data_dir, [pair[0] for pair in names])
    if names[0][1]:
        return train, _read(dataset, data_dir, [pair[1] for pair in names])
    order = shuffled(len(train))
    tests = math.ceil(TEST_SHARE * len(train))
    return tuple(train[i] for i in order[tests:]), tuple(train[i] for i in order[:tests])


def _read(dataset: str, data_dir: str, names: list[str]) -> tuple[Labelled, ...]:
    wanted = [f"{name}.{ending}" for name in names for ending in ENDINGS]
    path = find_file(dataset, data_dir, wanted, WHERE[dataset])
    fields = SETS[dataset][0]

    def row(number: int, raw: Any) -> Labelled:
        field = next((field for field in fields if field in raw), fields[0])
        label = raw.get(field)
        named = {field: str(label)} if isinstance(label, int) else raw
        text_field(raw, "text")  # It must be one.
        # HELMET keeps the white space around a text, and seeds its draws with it.
        return raw["text"], text_field(named, field)

    return tuple(usable(path, enumerate(open_rows(path)), row))
