"""Categories LongQA and Summ: questions about a book, and summaries.

HELMET loads these data sets from Hugging Face; here they are JSONL exports with the same fields:

* narrativeqa: `narrativeqa/{test,train}.jsonl` with `document {text}`, `question {text}`,
  `answers [{text}]`; the training rows, for demonstrations, may leave out `document`;
* infbench: `infbench/longbook_{qa,choice,sum}_eng.jsonl` with `id, context, input, answer,
  options`, the files of xinrongzhang2022/InfiniteBench;
* multi_lexsum: `multi_lexsum/{validation,train}.jsonl` with `sources`, `summary/short` (release
  v20230518); training rows may leave out `sources`.

HELMET counts Llama 2's tokens when it cuts texts and leaves out texts that are too short for its
longest prompt; here the policy's own tokens count. As there, infbench and multi_lexsum draw from
the rows that are left. HELMET draws the demonstrations of narrativeqa
and multi_lexsum without a seed; here they depend on the question alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

from tasks.errors import TaskInputError, UnfitRowError
from tasks.sources.table import list_field, text_field
from tasks.suites.helmet.prompts import has_tokens, omit_the_rest
from tasks.suites.helmet.rows import (
    Rows,
    answers_field,
    find_file,
    in_drawn_order,
    open_rows,
    usable,
)
from tasks.suites.helmet.sampling import SEED, SHOTS, shuffled, text_seed
from tasks.suites.helmet.selection import Item, Selection
from tasks.suites.helmet.wording import Wording, wording

LONGEST_TEXT = 20_000_000
# The least tokens that a text must have.
SHORTEST = {"narrativeqa": 131_073, "infbench": 65_536, "multi_lexsum": 65_536}

STORY_QUESTION = (
    "Below is a story, a novel or a film script, and a question about it. "
    "Answer in as few words as you can, with a single phrase if possible.\n\n"
)
BOOK_QUESTION = (
    "Below are a book and a question about it. "
    "Answer in as few words as you can, with a single phrase if possible.\n\n"
)
CHOICE = (
    "Below are a book and a question about it with four options, of which one is right. "
    "Output its letter, A, B, C or D, and nothing else.\n\n"
)
BOOK_SUMMARY = (
    "Below is a book. Summarise its plot and its characters in 1000 to 1200 words. "
    "Leave out themes, background and comments of your own.\n\n"
)
SUMMARISE_BOOK, SUMMARISE_CASE = "\n\nNow summarise the book.", "\n\nNow summarise the case."
CASE_SUMMARY = (
    "Below are the documents of a civil rights lawsuit. Summarise the case in one paragraph of 200 "
    "to 250 words: its background, the parties, and how it ended.\n\n"
)


def _exported(dataset: str, split: str, origin: str, selection: Selection) -> str:
    """Find the JSONL export of a split that HELMET reads from Hugging Face."""
    where = f"an export of {origin} on Hugging Face"
    return find_file(dataset, selection.data_dir, [f"{dataset}/{split}.jsonl"], where)


def narrativeqa(selection: Selection) -> Iterator[Item]:
    """Yield questions about stories, after two questions with answers but without their stories."""
    test = _exported("narrativeqa", "test", "narrativeqa", selection)
    train = _exported("narrativeqa", "train", "narrativeqa", selection)
    demos = open_rows(train)
    words = wording(selection.dataset, selection.data_dir, _ours(STORY_QUESTION))

    def item(number: int, row: Any) -> Item:
        question, answers = _story_question(row)
        text = _long_text(row.get("document"), "text", selection)
        shown = _shown(train, demos, text_seed(question), _story_demo)
        return Item(
            key=str(number),
            before=words.instruction + _examples(shown, words),
            context=text,
            after=f"\n\nQuestion: {question}",
            lead_in="Answer:",
            truth={"answers": answers, "choices": {"question": question}},
        )

    return in_drawn_order(test, item, selection.samples)


def _story_question(row: Any) -> tuple[str, list[str]]:
    answers = [text_field(answer, "text") for answer in list_field(row, "answers")]
    return text_field(row.get("question"), "text"), answers


def _story_demo(row: Any) -> str:
    question, answers = _story_question(row)
    return f"Question: {question}\nAnswer: {answers[0]}"


def infbench(selection: Selection) -> Iterator[Item]:
    """Yield questions about books or books to summarise, after two rows without their books."""
    kind = selection.dataset.removeprefix("infbench_")
    path = find_file(
        selection.dataset,
        selection.data_dir,
        [f"infbench/longbook_{kind}.jsonl", f"longbook_{kind}.jsonl"],
        "xinrongzhang2022/InfiniteBench on Hugging Face",
    )
    rows = open_rows(path)
    instruction, ask = {
        "qa_eng": (BOOK_QUESTION, _book_question),
        "choice_eng": (CHOICE, _book_choice),
        "sum_eng": (BOOK_SUMMARY, _book_summary),
    }[kind]

    request = SUMMARISE_BOOK if kind == "sum_eng" else ""
    words = wording(
        selection.dataset, selection.data_dir, _ours(instruction, story="[book]", ask=request)
    )

    def demo(row: Any) -> str:
        question, truth = ask(row)
        if kind == "sum_eng":
            return f"{words.story}\nSummary: {truth['answers'][0].strip()}"
        return f"{words.story}{question[1:]}\nAnswer: {truth['answers'][0]}"

    def item(number: int, row: Any) -> Item:
        after, truth = ask(row)
        others = [place for place in range(len(rows)) if place != number]
        shown = _shown(path, rows, SEED, demo, others)
        return Item(
            key=str(number),
            before=words.instruction + _examples(shown, words),
            context=_long_text(row, "context", selection),
            after=words.ask or after,
            lead_in="Summary:" if kind == "sum_eng" else "Answer:",
            truth=truth,
        )

    def kept(row: Any) -> bool:
        return _is_long(row, "context", selection)

    return in_drawn_order(path, item, selection.samples, kept)


def _book_question(row: Any) -> tuple[str, dict]:
    return f"\n\nQuestion: {text_field(row, 'input')}", {"answers": answers_field(row, "answer")}


def _book_choice(row: Any) -> tuple[str, dict]:
    options = answers_field(row, "options")
    answer = answers_field(row, "answer")[0]
    if len(options) != 4 or answer not in options:
        raise UnfitRowError("not four options with the answer among them")
    choices = dict(zip("ABCD", options, strict=True))
    listed = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
    question = f"\n\nQuestion: {text_field(row, 'input')}\nOptions:\n{listed}"
    return question, {"answers": ["ABCD"[options.index(answer)]], "choices": choices}


def _book_summary(row: Any) -> tuple[str, dict]:
    return "", {"answers": answers_field(row, "answer")}


def multi_lexsum(selection: Selection) -> Iterator[Item]:
    """Yield cases to summarise, after two summaries of other cases."""
    test = _exported("multi_lexsum", "validation", "allenai/multi_lexsum (v20230518)", selection)
    train = _exported("multi_lexsum", "train", "allenai/multi_lexsum (v20230518)", selection)
    demos = open_rows(train)
    ours = _ours(CASE_SUMMARY, lead="Legal documents:\n", ask=SUMMARISE_CASE)
    words = wording(selection.dataset, selection.data_dir, ours)

    def item(number: int, row: Any) -> Item:
        summary = text_field(row, "summary/short")
        sources = list_field(row, "sources")
        if not all(isinstance(source, str) for source in sources):
            raise UnfitRowError("sources that are not texts")
        text = _long_text({"sources": "\n\n".join(sources)}, "sources", selection)
        shown = _shown(train, demos, text_seed(summary), _case_demo)
        return Item(
            key=str(number),
            before=words.instruction + _examples(shown, words) + words.lead,
            context=text,
            after=words.ask,
            lead_in="Summary:",
            truth={"answers": [summary]},
        )

    def kept(row: Any) -> bool:
        sources = row.get("sources") if isinstance(row, dict) else None
        if not isinstance(sources, list) or not isinstance(row.get("summary/short"), str):
            return False
        return _is_long({"sources": "\n\n".join(map(str, sources))}, "sources", selection)

    return in_drawn_order(test, item, selection.samples, kept)


def _case_demo(row: Any) -> str:
    return f"Summary: {text_field(row, 'summary/short')}"


def _long_text(row: Any, field: str, selection: Selection) -> str:
    """Return a text, cut to the tokens that the task's length leaves for it."""
    text = text_field(row, field, most=LONGEST_TEXT)
    if not _is_long(row, field, selection):
        raise UnfitRowError(f"a text of fewer than {_shortest(selection)} tokens")
    return omit_the_rest(text, selection.size, selection.tokenizer)


def _is_long(row: Any, field: str, selection: Selection) -> bool:
    """Return whether a text is as long as the benchmark wants it."""
    text = row.get(field) if isinstance(row, dict) else None
    return isinstance(text, str) and has_tokens(text, _shortest(selection), selection.tokenizer)


def _shortest(selection: Selection) -> int:
    return next(n for name, n in SHORTEST.items() if selection.dataset.startswith(name))


def _shown(
    path: str,
    rows: Rows,
    seed: int,
    render: Callable[[Any], str],
    numbers: list[int] | None = None,
) -> list[str]:
    """Return the first two usable rows in the order of a seed, rendered."""
    numbers = list(range(len(rows))) if numbers is None else numbers
    order = [numbers[place] for place in shuffled(len(numbers), seed)]
    ordered = ((number, rows[number]) for number in order)
    shown = list(usable(path, ordered, lambda _, row: render(row), SHOTS))
    if len(shown) < SHOTS:
        raise TaskInputError(f"{path} has fewer than {SHOTS} other rows to show; download it again")
    return shown


def _ours(instruction: str, **texts: str) -> Wording:
    """Return our wording of a task whose demonstrations leave out their texts."""
    return Wording(
        instruction, shown="For example:\n\n", then="\n\nNow to the text itself.\n\n", **texts
    )


def _examples(shown: list[str], words: Wording) -> str:
    return words.shown + "\n\n".join(shown) + words.then
