"""Category `short_context_math`: problems without a context (datasets `dapo_math`, `mcqa_math`).

There is nothing to recall: the model learns to reason without it (arXiv 2604.09494, appendix B).
The problems come from files, of which 200 rows (a tenth of small files) are kept for validation:

* dapo_math: DAPO-Math-17k, without duplicates and Chinese problems, or GSM8K, whose answers are
  whole numbers as well.
* mcqa_math: the problems of MATH of levels 2 to 4 whose answers are numbers, or GSM8K; each with
  three wrong numbers that answer other problems.

A prompt holds an unchanged problem, whatever the target length; if the problem is too long for it,
another row is drawn.
"""

import dataclasses
import functools
import re
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tasks.datasets.dataset import Dataset
from tasks.datasets.wrong_numbers import Group, Look, Number, groups, parse_number, wrong_numbers
from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.context import Demonstration, Draft, Example, generator
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.scoring import mathematics
from tasks.scoring.reward import RewardRow, best_of, of_answer
from tasks.scoring.truth import GroundTruth
from tasks.sources.table import VALIDATION_SHARE, Source, files_of, pick, read_table, text_field

NUM_VALIDATION = 200
LEVELS = ("Level 2", "Level 3", "Level 4")
# Tokens of such texts have more bytes than this on average, with any tokenizer for English.
BYTES_PER_TOKEN = 1.5
# Longer solutions are not used as demonstrations.
LONGEST_WORKING = 3_000

QUESTIONS = (
    "Solve this problem. Your last line must be Answer: \\boxed{{…}} with the result in the box."
    "\n\n{problem}",
    "{problem}\n\nWork it out step by step. Give the result in the form Answer: \\boxed{{…}}",
    "Here is a problem in mathematics:\n\n{problem}\n\nThink it through, then finish with the line "
    "Answer: \\boxed{{…}}",
    "What is the answer to the following problem? State it as Answer: \\boxed{{…}}\n\n{problem}",
)
CHOICE_QUESTIONS = (
    "Solve this problem and choose the right option. Your last line must be Answer: \\boxed{{…}} "
    "with its letter in the box.\n\n{problem}\n\n{options}",
    "{problem}\n\n{options}\n\nWhich option is right? Work it out, then give its letter as "
    "Answer: \\boxed{{…}}",
    "Only one of the four results below is right.\n\n{problem}\n\n{options}\n\nFind it and finish "
    "with the line Answer: \\boxed{{…}}, the letter in the box.",
    "Work out the answer and pick its letter; write it as Answer: \\boxed{{…}}"
    "\n\n{problem}\n\n{options}",
)
OPTION_STYLES = ("{letter}) {text}", "({letter}) {text}", "{letter}. {text}", "{letter}: {text}")
LETTERS = "ABCD"
CHOOSING = (
    "So the result is {text}, which is option {letter}.",
    "That gives {text}: option {letter}.",
    "Option {letter} has this result, {text}.",
)
CLOSINGS = (
    "This is the result of the steps above.",
    "The calculation gives it.",
    "That answers the question.",
)

_MARK = re.compile(r"<<[^<>]*>>")
_CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u9fff\uff00-\uffef]")
# The wording around a problem in DAPO's original file.
_DAPO_LEAD = re.compile(r"^Solve the following math problem step by step\.[^\n]*\n\n")
_DAPO_TAIL = re.compile(r"\n\nRemember to put your answer on its own line[^\n]*$")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem with its answer.

    Attributes:
      working: the worked solution, "" if the data set has none.
    """

    text: str
    answer: str
    working: str


def parse_gsm8k(raw: Mapping[str, Any]) -> Problem:
    """Parse a row of GSM8K: the solution without calculator marks, and the answer after `####`.

    Raises:
      UnfitRowError: a field is missing, or there is no number after `####`.
    """
    question = text_field(raw, "question")
    working, found, answer = text_field(raw, "answer").rpartition("####")
    answer = answer.strip().replace(",", "")
    if not found or not re.fullmatch(r"-?\d+(?:\.\d+)?", answer):
        raise UnfitRowError("no number after ####")
    return Problem(question, answer, _MARK.sub("", working).strip())


def parse_dapo(raw: Mapping[str, Any]) -> Problem:
    """Parse a row of DAPO-Math-17k, as published or with its prompt as plain text.

    Raises:
      UnfitRowError: a field is missing, or the problem is in Chinese.
    """
    prompt = raw.get("prompt")
    if isinstance(prompt, list):
        users = [
            turn for turn in prompt if isinstance(turn, Mapping) and turn.get("role") == "user"
        ]
        text = text_field(users[-1] if users else {}, "content")
    else:
        text = text_field(raw, "prompt")
    text = _DAPO_TAIL.sub("", _DAPO_LEAD.sub("", text)).strip()
    reward = raw.get("reward_model")
    answer = text_field(reward if isinstance(reward, Mapping) else {}, "ground_truth", most=200)
    if _CHINESE.search(text):
        raise UnfitRowError("in Chinese")
    if not text:
        raise UnfitRowError("no prompt")
    return Problem(text, answer, "")


def parse_math(raw: Mapping[str, Any]) -> Problem:
    """Parse a row of MATH; its answer is the last `\\boxed{}` of the solution.

    Raises:
      UnfitRowError: a field is missing, the level is not in LEVELS, or the problem has a drawing.
    """
    text, working = text_field(raw, "problem"), text_field(raw, "solution")
    level = raw.get("level")
    if level not in LEVELS and f"Level {level}" not in LEVELS:
        raise UnfitRowError(f"not of the levels {', '.join(LEVELS)}")
    if "[asy]" in text:
        raise UnfitRowError("a drawing")
    answer, plain = last_boxed(working)
    return Problem(text, answer, "" if "[asy]" in working else plain)


def last_boxed(text: str) -> tuple[str, str]:
    """Return the content of the last `\\boxed{}`, and the text without that command.

    Raises:
      UnfitRowError: there is no `\\boxed{}`, or it is not closed.
    """
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        raise UnfitRowError("no \\boxed{} in the solution")
    first = text.index("{", start) + 1
    depth, end = 1, first
    while depth and end < len(text):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    if depth:
        raise UnfitRowError("a \\boxed{} that is not closed")
    inner = text[first : end - 1]
    return inner.strip(), text[:start] + inner + text[end:]


def _parse_any(raw: Any) -> Problem:
    """Parse a row of any of the data sets, which are recognised by their fields."""
    if not isinstance(raw, Mapping):
        raise UnfitRowError("a row that is not an object")
    if "prompt" in raw:
        return parse_dapo(raw)
    return parse_math(raw) if "problem" in raw else parse_gsm8k(raw)


def _parse_choice(raw: Any) -> tuple[Problem, Number]:
    problem = _parse_any(raw)
    number = parse_number(problem.answer)
    if number is None:
        raise UnfitRowError("an answer that is not a number")
    return problem, number


_GSM8K_FILES = ("gsm8k_train.jsonl", "train.jsonl")
_GSM8K_TFDS = {"train": ("gsm8k", "train")}
DAPO: Source[Problem] = Source(
    dataset="dapo_math",
    files={
        "train": (
            "[dD][aA][pP][oO]*.parquet",
            "[dD][aA][pP][oO]*.jsonl",
            "[dD][aA][pP][oO]*.json",
            *_GSM8K_FILES,
        )
    },
    where="BytedTsinghua-SIA/DAPO-Math-17k on Hugging Face, or openai/grade-school-math on GitHub",
    parse=_parse_any,
    key=lambda row: row.text,
    tfds=_GSM8K_TFDS,
    shares=False,
)
MATH: Source[tuple[Problem, Number]] = Source(
    dataset="mcqa_math",
    files={
        "train": (
            "MATH/train/*/*.json",
            "math_train*.jsonl",
            "math_train*.json",
            "math_train*.parquet",
            *_GSM8K_FILES,
        )
    },
    where="hendrycks/math on GitHub (MATH.tar), or openai/grade-school-math on GitHub",
    parse=_parse_choice,
    key=lambda row: row[0].text,
    tfds=_GSM8K_TFDS,
    shares=False,
)


@functools.lru_cache(maxsize=8)
def _rows(source: Source, data_dir: str, split: str) -> tuple:
    """Return the rows of a split; the rows with the lowest hashes are for validation.

    Where both data sets read the same files, neither trains on what the other validates on.

    Raises:
      TaskInputError: there are no files, or too few rows in them to train on some.
    """
    rows = read_table(source, data_dir, "train").rows
    sources = [source]
    if files_of(DAPO, data_dir, "train") == files_of(MATH, data_dir, "train"):
        sources = [DAPO, MATH]
    held_out = _held_out(source, data_dir, sources)
    if split == "validation":
        return tuple(held_out.values())
    barred = {text for other in sources for text in _held_out(other, data_dir, sources)}
    left = tuple(row for row in rows if source.key(row) not in barred)
    if not left:
        raise TaskInputError(
            f"config.data.dir = {data_dir!r} has too few usable rows for {source.dataset} "
            f"({len(rows)}) to keep some for validation: get all of {source.where}"
        )
    return left


def _held_out(source: Source, data_dir: str, sources: Sequence[Source]) -> dict[str, Any]:
    """Return the rows for validation by their problems.

    Args:
      sources: the data sets that read the same files. Each holds out problems of its own, by the
        rest of their hashes, so that no question counts as two.
    """
    rows = read_table(source, data_dir, "train").rows
    hashes = {source.key(row): zlib.crc32(source.key(row).encode()) for row in rows}
    own = [row for row in rows if sources[hashes[source.key(row)] % len(sources)] is source]
    kept = min(NUM_VALIDATION, -(-len(rows) // VALIDATION_SHARE))
    ranked = sorted(own or rows, key=lambda row: hashes[source.key(row)])
    return {source.key(row): row for row in ranked[:kept]}


@functools.lru_cache(maxsize=8)
def _groups(data_dir: str) -> Mapping[tuple[Look, Fraction], Group]:
    """Return the groups of answers that wrong options come from, those of all problems."""
    return groups(number for _, number in read_table(MATH, data_dir, "train").rows)


def dapo_math(settings: TaskSettings, split: str, stream: int, index: int, attempt: int) -> Draft:
    """Draw a problem that asks for its answer in `\\boxed{}`.

    Raises:
      TaskInputError: there are no files.
      UnfitRowError: the row is too long for the target length.
    """
    problem = pick(_rows(DAPO, settings.data_dir, split), stream, index, attempt)
    rng = generator("dapo_math", stream, index)
    user = QUESTIONS[rng.integers(len(QUESTIONS))].format(problem=problem.text)
    return _draft(
        settings,
        rng,
        user,
        problem.text,
        {"answers": [problem.answer]},
        functools.partial(_demonstrate, problem.working, "", problem.answer),
        worked=0 < len(problem.working) <= LONGEST_WORKING,
    )


def mcqa_math(settings: TaskSettings, split: str, stream: int, index: int, attempt: int) -> Draft:
    """Draw a problem with four options, one of them right.

    Raises:
      TaskInputError: there are no files.
      UnfitRowError: the row is too long for the target length, or its answer is written like those
        of too few problems.
    """
    problem, number = pick(_rows(MATH, settings.data_dir, split), stream, index, attempt)
    rng = generator("mcqa_math", stream, index)
    group = _groups(settings.data_dir)[number.look, number.value]
    numbers = [number, *wrong_numbers(rng, number, group)]
    right = LETTERS[rng.integers(len(LETTERS))]
    others = iter(numbers[1:])
    choices = {letter: (number if letter == right else next(others)).text for letter in LETTERS}
    style = OPTION_STYLES[rng.integers(len(OPTION_STYLES))]
    options = "\n".join(
        style.format(letter=letter, text=_shown(text)) for letter, text in choices.items()
    )
    user = CHOICE_QUESTIONS[rng.integers(len(CHOICE_QUESTIONS))].format(
        problem=problem.text, options=options
    )
    choosing = CHOOSING[rng.integers(len(CHOOSING))]
    choosing = choosing.format(text=_shown(choices[right]), letter=right)
    return _draft(
        settings,
        rng,
        user,
        problem.text,
        {"answers": [right], "choices": choices},
        functools.partial(_demonstrate, problem.working, choosing, right),
        worked=0 < len(problem.working) <= LONGEST_WORKING,
    )


def _shown(text: str) -> str:
    """Return an option as the prompt shows it, with LaTeX between dollar signs."""
    return f"${text}$" if "\\" in text or "^" in text else text


def _draft(
    settings: TaskSettings, rng, user: str, question_id: str, truth, demonstrate, *, worked: bool
) -> Draft:
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    if len((system + user).encode()) > BYTES_PER_TOKEN * settings.target_length:
        raise UnfitRowError("a problem too long for the target length")
    example = Example(
        system=system,
        user=user,
        documents=(),
        gold=(),
        truth=truth,
        question_id=question_id,
        demonstrate=demonstrate if worked else None,
    )
    return Draft(lambda _: example, most=0, from_row=True)


def _demonstrate(
    working: str, choosing: str, answer: str, rng: np.random.Generator
) -> Demonstration:
    thought = f"{working}\n{choosing}" if choosing else working
    closing = CLOSINGS[rng.integers(len(CLOSINGS))]
    return Demonstration((thought,), closing, f"\\boxed{{{answer}}}")


equal_expression = best_of(mathematics.equal_expressions)


@of_answer
def chosen_option(answer: str, truth: GroundTruth) -> float:
    """Return 1 if the answer chooses the right option by its letter or its text."""
    return mathematics.chosen_option(answer, truth.answers[0], truth.choices)


# There are no gold documents, so the threshold 1 is never used.
ROW = RewardRow(hit_threshold=1.0, min_span=5, gold_mode="always_1", free_spans=2)
DAPO_MATH = Dataset(
    name="dapo_math",
    category="short_context_math",
    draft=dapo_math,
    score=equal_expression,
    metrics={"accuracy": equal_expression},
    reward=ROW,
    source=DAPO,
    has_context=False,
)
MCQA_MATH = Dataset(
    name="mcqa_math",
    category="short_context_math",
    draft=mcqa_math,
    score=chosen_option,
    metrics={"accuracy": chosen_option},
    reward=ROW,
    source=MATH,
    has_context=False,
)
