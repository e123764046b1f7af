"""HELMET (arXiv 2410.02694): seven categories of tasks at 8K to 128K tokens, read from its data.

Each task has two forms: `helmet_kilt_nq` is the benchmark's, and `helmet_kilt_nq_chat` asks the
model to think, to recall and to end in `Answer:`, as this project's models are trained to. Rows,
demonstrations and the numbers of items are HELMET's, whatever the seed of a run. The wording of the
instructions is HELMET's if its `data.py` is in the data folder (`wording.py`); without it the
wording is ours, and scores are best compared with each other, not with published ones.

Departures: texts that HELMET cuts by Llama 2's tokens are cut by the policy's; a citation of a
document that was not shown counts as a missing citation; sentences are split by a rule
(`tasks/prompts/sentences.py`). Metrics that need a judge model are left out unless a judge is
given, and the means without them say so by name.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.errors import TaskInputError
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.vocabulary import END_RECALL, START_RECALL, Tokenizer
from tasks.scoring import answers
from tasks.suites.helmet.judges import NO_JUDGES, Judges
from tasks.suites.helmet.prompts import CHAT, PLAIN, RECALL, Form, to_record
from tasks.suites.helmet.rows import skipping
from tasks.suites.helmet.selection import Selection
from tasks.suites.helmet.table import CATEGORIES, LENGTHS, TASKS, HelmetTask
from tasks.suites.task import Scores, SuiteTask, task_at

NAME = "helmet"
CHAT_SUFFIX = "_chat"


@dataclasses.dataclass(frozen=True)
class TaskForm:
    """A task in one form.

    Attributes:
      name: the name of the suite's task.
      kind: "plain", "chat" or "recall" (`tasks/suites/helmet/prompts.py`).
    """

    name: str
    task: HelmetTask
    kind: str
    judges: Judges


def helmet(judges: Judges = NO_JUDGES) -> tuple[SuiteTask, ...]:
    """Return HELMET's tasks in the benchmark's form."""
    return tuple(
        _suite_task(f"{NAME}_{task.name}", task, CHAT if task.chat else PLAIN, judges)
        for task in TASKS
    )


def helmet_chat(judges: Judges = NO_JUDGES) -> tuple[SuiteTask, ...]:
    """Return HELMET's tasks in the form with a thought and recall."""
    return tuple(
        _suite_task(f"{NAME}_{task.name}{CHAT_SUFFIX}", task, RECALL, judges) for task in TASKS
    )


def _suite_task(name: str, task: HelmetTask, kind: str, judges: Judges) -> SuiteTask:
    form = TaskForm(name, task, kind, judges)
    return SuiteTask(
        name=name,
        # A thought may be as long as the run allows, beyond the length, as in HELMET.
        max_new_tokens=None if kind == RECALL else task.new_tokens,
        records=functools.partial(_records, form),
        score=functools.partial(score_response, form),
        aggregate=functools.partial(aggregate, task, judges),
        thinks=kind == RECALL,
    )


def _records(
    form: TaskForm,
    tokenizer: Tokenizer,
    settings: TaskSettings,
    length: int,
    count: int,
    seed: int,
) -> list[Record]:
    """Return the first `count` of HELMET's rows at a length.

    Args:
      seed: not used; the benchmark draws its rows with a seed of its own.

    Raises:
      TaskInputError: HELMET has no data for the length, a file is missing, or no row is usable.
    """
    del seed
    name, task = form.name, form.task
    if length not in LENGTHS:
        raise TaskInputError(
            f"{name} at {length} tokens: HELMET's lengths are {', '.join(map(str, LENGTHS))}"
        )
    selection = Selection(
        dataset=task.name,
        data_dir=settings.data_dir,
        length=length,
        size=task.sizes[LENGTHS.index(length)],
        samples=task.samples,
        tokenizer=tokenizer,
    )
    prompt_form = Form(form.kind, length - task.new_tokens, task.joint, task.request)
    place = task_at(name, length)

    def make(_, item) -> Record:
        return to_record(item, prompt_form, f"{place}/{item.key}", name, tokenizer, settings)

    return list(skipping(place, enumerate(task.reader(selection)), make, count))


def score_response(form: TaskForm, response: str, truth: Mapping[str, Any]) -> Scores:
    """Return the metrics of one response.

    The marks of recall spans are removed. In the recall form the text after the last `Answer:` is
    scored, or without one all the text after the thought. If the thought was not closed, the empty
    text is scored, because a thought could earn a score by quoting.
    """
    if form.kind == RECALL:
        _, closed, visible = response.rpartition(answers.THINK_END)
        response = (answers.extract_answer(visible) or visible.strip()) if closed else ""
    output = response.replace(START_RECALL, "").replace(END_RECALL, "")
    lead_in = form.task.lead_in if form.kind == PLAIN else ""
    return form.task.score(lead_in + output, truth, form.judges)


def aggregate(task: HelmetTask, judges: Judges, rows: Sequence[Mapping[str, float]]) -> Scores:
    """Return the metrics of a task in percent, the one that counts for its category first.

    If several count for the category, the first metric is "mean", their mean without those that
    lack a judge. One entry names the metrics that lack a judge, with their number as its value.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    means = {name: 100 * sum(items) / len(items) for name, items in values.items()}
    missing = judges.missing(task.metrics)
    # With a judge but no claim in any output, the citation metrics are 0.
    counted = {name: means.setdefault(name, 0.0) for name in task.metrics if name not in missing}
    if len(task.metrics) > 1:
        means = {"mean": sum(counted.values()) / len(counted)} | means
    if missing:
        means[f"missing without a judge: {', '.join(missing)}"] = float(len(missing))
    return means


def overall(scores: Mapping[str, float], judges: Judges = NO_JUDGES) -> Scores:
    """Return the mean of the seven categories, and each of them.

    A category is the plain mean of its metrics. If a judge is missing, it is the mean of the other
    metrics, or left out if there are none, and the names of the means say so.

    Args:
      scores: the first metric of `aggregate` for each task, by the task's name, all of one form.
    """
    bare = {
        name.removeprefix(f"{NAME}_").removesuffix(CHAT_SUFFIX): value
        for name, value in scores.items()
    }
    categories: Scores = {}
    missing: list[str] = []
    for category in CATEGORIES:
        tasks = [task for task in TASKS if task.category == category]
        absent = [name for task in tasks for name in judges.missing(task.metrics)]
        missing += absent
        weights = {t.name: len(t.metrics) - len(judges.missing(t.metrics)) for t in tasks}
        total = sum(weights.values())
        if total:
            mean = sum(weight * bare[name] for name, weight in weights.items()) / total
            label = f"{category}, partial: without {_listed(absent)}" if absent else category
            categories[label] = mean
    name = "mean"
    if missing:
        name = (
            f"partial mean of {len(categories)} of {len(CATEGORIES)} categories, "
            f"without {_listed(missing)}"
        )
    return {name: sum(categories.values()) / len(categories)} | categories


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
