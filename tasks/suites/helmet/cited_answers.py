"""Category Cite: ALCE's long answers and lists that cite numbered documents.

Files: `alce/{asqa,qampari}_eval_gtr_top2000.json`, a list of `question, docs [{title, text}]` with
`qa_pairs [{short_answers}]` (ASQA) or `answers` (QAMPARI, the aliases of each); and
`prompts/{asqa,qampari}_revised.json` of HELMET's repository: `instruction`, `demos [{question,
answer, docs}]`, and `demo_prompt`, which says how far documents and answer stand apart.
"""

import random
import re
from collections.abc import Iterator
from typing import Any

from tasks.errors import TaskInputError, UnfitRowError
from tasks.sources.table import list_field, read_rows, text_field
from tasks.suites.helmet.rows import find_file, read_object, title_field, usable
from tasks.suites.helmet.sampling import SEED, SHOTS, shuffled
from tasks.suites.helmet.selection import Item, Selection

PROMPTS = "HELMET's repository (github.com/princeton-nlp/HELMET, folder prompts)"


def alce(selection: Selection) -> Iterator[Item]:
    """Yield questions with their documents; the question stands before them.

    The truth has under "choices" the texts that a judge of citations reads: each document shown, by
    its number, and the "question".
    """
    dataset = selection.dataset.removeprefix("alce_")
    path = find_file(
        selection.dataset, selection.data_dir, [f"alce/{dataset}_eval_gtr_top2000.json"]
    )
    name = f"{dataset}_revised.json"
    prompts = find_file(
        selection.dataset, selection.data_dir, [f"prompts/{name}", f"alce/{name}"], PROMPTS
    )
    instruction, demos = _prompt_file(prompts)
    # A row has two thousand documents. Keep only the few that are shown.
    rows = [_shortened(row, selection.size) for row in read_rows(path)]
    if not rows:
        raise TaskInputError(f"{path} holds no row; download it again")
    rng = random.Random(SEED)
    shown = [rng.sample(demos, SHOTS) for _ in rows]

    def item(number: int, row: Any) -> Item:
        question = text_field(row, "question")
        documents = list_field(row, "docs")
        parts = _short_answers(row) if dataset == "asqa" else _aliases(row)
        before = "".join(f"{instruction}\n\n{demo}\n\n\n" for demo in shown[number])
        return Item(
            key=str(number),
            before=f"{before}{instruction}\n\nQuestion: {question}\n\n",
            context=render_documents(documents),
            after="",
            lead_in="Answer:",
            truth={
                "answers": [", ".join(part[0] for part in parts)],
                "parts": parts,
                "choices": {"question": question}
                | {
                    str(place): f"Title: {title_field(d)}\n{text_field(d, 'text')}"
                    for place, d in enumerate(documents, 1)
                },
            },
        )

    return usable(path, ((i, rows[i]) for i in shuffled(len(rows))), item, selection.samples)


def render_documents(documents: list) -> str:
    """Return the documents as one text, numbered from 1."""
    return "\n\n".join(
        f"Document [{number}](Title: {title_field(d)}): {text_field(d, 'text')}"
        for number, d in enumerate(documents, 1)
    )


def _shortened(row: Any, size: int) -> Any:
    if isinstance(row, dict) and isinstance(row.get("docs"), list):
        return {**row, "docs": row["docs"][:size]}
    return row


def _prompt_file(path: str) -> tuple[str, list[str]]:
    """Return the instruction and the rendered demonstrations."""
    content = read_object(path)
    try:
        instruction = text_field(content, "instruction")
        form = content.get("demo_prompt")
        found = re.search(r"\{context\}(\s*)Answer:", form) if isinstance(form, str) else None
        joint = found[1] if found else "\n\n"
        demos = [
            f"Question: {text_field(demo, 'question')}\n\n"
            f"{render_documents(list_field(demo, 'docs'))}{joint}"
            f"Answer: {text_field(demo, 'answer')}"
            for demo in list_field(content, "demos")
        ]
    except UnfitRowError as error:
        raise TaskInputError(f"{path}: {error}; download it again from {PROMPTS}") from None
    if len(demos) < SHOTS:
        raise TaskInputError(
            f"{path} has fewer than {SHOTS} demos; download it again from {PROMPTS}"
        )
    return instruction, demos


def _short_answers(row: Any) -> list[list[str]]:
    return [_texts(list_field(pair, "short_answers")) for pair in list_field(row, "qa_pairs")]


def _aliases(row: Any) -> list[list[str]]:
    return [_texts(aliases) for aliases in list_field(row, "answers")]


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not values:
        raise UnfitRowError("a question without answers")
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise UnfitRowError("answers that are not texts, or blank")
    return values
