"""HELMET's own instructions, read from its repository if the data folder has it.

The benchmark keeps the texts around a context in its file `data.py`, in a template for each loader:
`load_qa`, `load_json_kv` and so on. They are not copied into this project. If `data.py` is in the
data folder, or in `helmet/`, `HELMET/` or `data/` under it, prompts have the benchmark's words and
are equal to the benchmark's letter by letter; otherwise the instructions are ours, and a line says
so. The file is only parsed, never run.
"""

import ast
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from storage.files import reading, told
from tasks.errors import TaskInputError
from tasks.sources.table import find
from tasks.suites.helmet.rows import FOLDERS

FILE = "data.py"
# For each task of ours the loader, and which of its templates counts, from the first one.
_LOADERS: Mapping[str, tuple[str, int]] = {
    "kilt_nq": ("load_qa", -1),
    "kilt_triviaqa": ("load_qa", -1),
    "kilt_hotpotqa": ("load_qa", -1),
    "kilt_popqa_3": ("load_qa", -1),
    "json_kv": ("load_json_kv", 0),
    "msmarco_rerank_psg": ("load_msmarco_rerank", 0),
    "narrativeqa": ("load_narrativeqa", 0),
    "infbench_qa_eng": ("load_infbench", 0),
    "infbench_choice_eng": ("load_infbench", 1),
    "infbench_sum_eng": ("load_infbench", 2),
    "multi_lexsum": ("load_multi_lexsum", 0),
    "icl": ("load_icl", 0),
}


@dataclasses.dataclass(frozen=True)
class Wording:
    """The texts around a context.

    Attributes:
      instruction: before the demonstrations, or before the context if these are in it.
      lead: between the demonstrations and the context.
      shown, then: before and after the demonstrations of texts that are too long to show whole.
      story: stands for such a text in a demonstration.
      ask: after the context, where no question comes there; "" where one does.
    """

    instruction: str = ""
    lead: str = ""
    shown: str = ""
    then: str = ""
    story: str = ""
    ask: str = ""


def wording(dataset: str, data_dir: str, ours: Wording) -> Wording:
    """Return the benchmark's texts for a task, or ours if its file is not there.

    Raises:
      TaskInputError: the file can't be read, or has no such template.
    """
    patterns = [folder + FILE for folder in (*FOLDERS, "HELMET/")]
    found = find(data_dir, patterns) if data_dir else []
    if not found:
        _say_ours(dataset)
        return ours
    name, number = _LOADERS["icl" if dataset.startswith("icl_") else dataset]
    texts = _texts(found[0]).get(name, ())
    templates = [text for text in texts if "{context}" in text]
    if len(templates) <= max(number, 0):
        raise TaskInputError(
            f"{found[0]} has no template for {dataset} in {name}; get it from "
            "github.com/princeton-nlp/HELMET, or take it away for instructions of our own"
        )
    before, _, after = templates[number].partition("{context}")
    instruction, _, lead = before.replace("{demos}", "{demo}").partition("{demo}")
    if dataset.startswith("icl_"):
        # The template is a format: its doubled braces stand for single ones.
        instruction = instruction.replace("{{", "{").replace("}}", "}")
    return Wording(
        instruction=instruction,
        lead=lead,
        shown=_first(texts, lambda text: text.endswith(":\n\n") and "{" not in text, ours.shown),
        then=_first(texts, lambda text: text.startswith("\n\nNow, "), ours.then),
        story=_first(
            [text[: text.index("]") + 1] for text in texts if text.startswith("[") and "]" in text],
            bool,
            ours.story,
        ),
        # What comes with a question is the same in ours.
        ask=after.partition("{demos}")[0] if ours.ask else "",
    )


def _first(texts: Sequence[str], wanted: Callable[[str], bool], ours: str) -> str:
    """Return the first text that is wanted, or ours without one, or if ours is empty."""
    return next(filter(wanted, texts), ours) if ours else ours


@functools.lru_cache(maxsize=4)
def _texts(path: str) -> Mapping[str, tuple[str, ...]]:
    """Return the texts in each function of a Python file, in their order."""
    try:
        with told(path), reading(path) as file:
            tree = ast.parse(file.read())
    except (OSError, ValueError, SyntaxError) as error:
        raise TaskInputError(f"{path} can't be read ({error}); download it again") from None
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return {node.name: tuple(_constants(node)) for node in functions}


def _constants(node: ast.FunctionDef) -> Iterator[str]:
    """Yield the texts in a function in the order of its lines."""
    found = [
        part
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]
    for part in sorted(found, key=lambda part: (part.lineno, part.col_offset)):
        yield str(part.value)


@functools.cache
def _say_ours(dataset: str) -> None:
    logging.getLogger(__name__).warning(
        "helmet_%s: the instructions are worded by us, since config.data.dir has no %s of "
        "github.com/princeton-nlp/HELMET; scores don't compare with published ones",
        *(dataset, FILE),
    )
