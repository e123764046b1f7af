"""RULER: 13 tasks, each in two prompt forms.

`ruler_vt` has the benchmark's prompt: `input` and `answer_prefix` as plain text, without a chat
template. `ruler_vt_chat` is the chat form with recall: a system prompt asks for a thought with
recall and a line `Answer: …`, the user's text is the input without the prefix, and the text after
`</think>` is scored. In both forms only the context may be copied, not the instruction or the
worked example.

Lengths are counted as in the benchmark: a prompt with the tokens of its response has at most
`length` tokens, by the policy's own tokenizer. In the chat form the whole chat prompt counts, with
the benchmark's number of new tokens; the thought is extra, up to decoding.max_new_tokens. A row is
the longest that fits; the benchmark searches in steps of up to 500 words.

Rows come from the benchmark's own files if data_dir has them (`files.py`), otherwise they are made
here. The docstrings of the functions that draw them say how they differ from the benchmark's. To
see how a model's score differs, evaluate official files beside made rows.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from tasks.errors import TaskInputError
from tasks.prompts.context import Example, Prompted
from tasks.prompts.fitting import TokenCounter, largest_fit
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.prompts.tokenised import tokenised
from tasks.prompts.vocabulary import Tokenizer
from tasks.suites.ruler import scores
from tasks.suites.ruler.counting import check_frequent_words, common_words, frequent_words
from tasks.suites.ruler.files import find_file, read_prompts
from tasks.suites.ruler.niah import Niah, niah
from tasks.suites.ruler.prompts import Prompt, RowSpec, Sized
from tasks.suites.ruler.questions import answer_question, hotpotqa, squad
from tasks.suites.ruler.tracking import variable_tracking
from tasks.suites.task import SuiteTask, task_at

NIAH_TASKS = {
    "niah_single_1": Niah("noise", "word", "number"),
    "niah_single_2": Niah("essay", "word", "number"),
    "niah_single_3": Niah("essay", "word", "uuid"),
    "niah_multikey_1": Niah("essay", "word", "number", keys=4),
    "niah_multikey_2": Niah("needle", "word", "number"),
    "niah_multikey_3": Niah("needle", "uuid", "uuid"),
    "niah_multivalue": Niah("essay", "word", "number", values=4),
    "niah_multiquery": Niah("essay", "word", "number", keys=4, queries=4),
}


DRAFTS: dict[str, Callable[[RowSpec], Sized]] = {
    **{name: functools.partial(niah, task) for name, task in NIAH_TASKS.items()},
    "vt": variable_tracking,
    "cwe": common_words,
    "fwe": frequent_words,
    "qa_1": lambda spec: answer_question(squad(spec.settings.data_dir), spec),
    "qa_2": lambda spec: answer_question(hotpotqa(spec.settings.data_dir), spec),
}
# The number of tokens that a response may have.
NEW_TOKENS = {
    **dict.fromkeys(NIAH_TASKS, 128),
    "vt": 30,
    "cwe": 120,
    "fwe": 50,
    "qa_1": 32,
    "qa_2": 32,
}
QA = ("qa_1", "qa_2")
# How many questions are tried for one row before its length is refused.
MAX_ATTEMPTS = 32


def plain_tasks() -> tuple[SuiteTask, ...]:
    """Return the 13 tasks with the benchmark's prompts."""
    return tuple(_task(name, chat=False) for name in DRAFTS)


def chat_tasks() -> tuple[SuiteTask, ...]:
    """Return the 13 tasks in the chat form with recall."""
    return tuple(_task(name, chat=True) for name in DRAFTS)


def _task(name: str, *, chat: bool) -> SuiteTask:
    return SuiteTask(
        name=_name(name, chat),
        max_new_tokens=None if chat else NEW_TOKENS[name],
        records=functools.partial(make_records, name, chat),
        score=functools.partial(score, name, chat),
        aggregate=scores.aggregate,
        thinks=chat,
    )


def _name(name: str, chat: bool) -> str:
    return f"ruler_{name}_chat" if chat else f"ruler_{name}"


def score(name: str, chat: bool, response: str, truth: Mapping[str, Any]) -> dict[str, float]:
    """Return the task's metric for a response, and whether the prediction is empty."""
    prediction = scores.clean(scores.after_thought(response) if chat else response)
    empty = {"empty": float(not prediction)}
    if name in QA:
        return {"string_match_part": scores.match_part(prediction, truth["answers"]), **empty}
    references = [aliases[0] for aliases in truth["parts"]]
    return {"string_match_all": scores.match_all(prediction, references), **empty}


def make_records(
    name: str,
    chat: bool,
    tokenizer: Tokenizer,
    settings: TaskSettings,
    length: int,
    count: int,
    seed: int,
) -> list[Record]:
    """Return the first rows of a task, from the benchmark's file if there is one, or made here.

    Raises:
      TaskInputError: no row fits into the length, files are missing, or a line is malformed.
    """
    path = find_file(settings.data_dir, name, length)
    official = read_prompts(path, name, length, count) if path else None
    task = task_at(_name(name, chat), length)
    records = []
    for index in range(count):
        spec = RowSpec(name, tokenizer, settings, length, seed, index)
        ours = SYSTEMS[spec.rng("system").integers(len(SYSTEMS))]
        system = settings.system_prompt(ours) if chat else None
        prompt = official[index] if official else make_prompt(spec, system)
        label = f"line{index + 1}" if official else str(index)
        records.append(_record(f"{task}/{label}", _name(name, chat), spec, prompt, system))
    longer = sum(len(record.inputs) + NEW_TOKENS[name] > length for record in records)
    if longer:
        # The benchmark counted the tokens with another tokenizer.
        logging.getLogger(__name__).warning(
            "%s: %d of %d rows take more than %d tokens with this tokenizer",
            path,
            longer,
            count,
            length,
        )
    return records


def make_prompt(spec: RowSpec, system: str | None) -> Prompt:
    """Make the longest row that fits into the length.

    Args:
      system: the system prompt of the chat form, "" for none; None for the benchmark's prompt.

    Raises:
      TaskInputError: no row fits.
    """
    counter = TokenCounter(spec.tokenizer)
    attempts = MAX_ATTEMPTS if spec.task in QA else 1
    for attempt in range(attempts):
        sized = DRAFTS[spec.task](dataclasses.replace(spec, attempt=attempt))
        try:
            prompt, number = _fit(sized, counter, spec, system)
        except TaskInputError as error:
            refused = error
            continue
        if spec.task in QA and number == sized.most:
            _log_short(spec.task, spec.length)
        if spec.task == "fwe":
            check_frequent_words(prompt, spec.length)
        return prompt
    raise TaskInputError(f"ruler_{spec.task} at length {spec.length}: {refused}")


def _fit(
    sized: Sized, counter: TokenCounter, spec: RowSpec, system: str | None
) -> tuple[Prompt, int]:
    made = functools.lru_cache(maxsize=2)(sized.prompt)

    def count(number: int) -> int:
        return counter(_text(spec, made(number), system))

    room = spec.length - NEW_TOKENS[spec.task]
    number = largest_fit(count, room, sized.most)
    return made(number), number


@functools.cache
def _log_short(task: str, length: int) -> None:
    logging.getLogger(__name__).warning(
        "ruler_%s: all documents of the data set together are shorter than %d tokens, and so are "
        "its rows",
        task,
        length,
    )


def _text(spec: RowSpec, prompt: Prompt, system: str | None) -> str:
    if system is None:
        return prompt.input + prompt.prefix
    return spec.tokenizer.chat_prompt(system, prompt.input, thinking=spec.settings.thinking)


def _record(
    example_id: str, dataset: str, spec: RowSpec, prompt: Prompt, system: str | None
) -> Record:
    if spec.task in QA:
        truth: dict[str, Any] = {"answers": list(prompt.outputs)}
    else:
        parts = [[output] for output in prompt.outputs]
        truth = {"answers": [", ".join(prompt.outputs)], "parts": parts}
    example = Example(
        system=system or "",
        user=prompt.input,
        documents=(prompt.context,),
        gold=prompt.gold,
        truth=truth,
        question_id=prompt.question_id,
    )
    return tokenised(
        example_id,
        dataset,
        Prompted(example, _text(spec, prompt, system)),
        spec.tokenizer,
        spec.settings,
        spec.rng("demonstration"),
    )
