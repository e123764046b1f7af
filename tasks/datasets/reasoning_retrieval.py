"""Category `reasoning_retrieval`: work out a key, then look it up (dataset `math_retrieval`)."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from tasks.datasets.dataset import Dataset
from tasks.datasets.recall import MOST_PAIRS, ROW, exact_value, lookup, value
from tasks.errors import TaskInputError
from tasks.prompts.context import Draft, generator
from tasks.prompts.settings import SIGNS, TaskSettings
from tasks.scoring import answers
from tasks.scoring.reward import RewardSettings, Score
from tasks.scoring.truth import GroundTruth

ARITHMETIC_QUESTIONS = (
    "Work out ${problem}$. The result is a key: what is its value?",
    "Compute ${problem}$ and give the value stored under the result.",
    "Let k = ${problem}$. Which value belongs to key k?",
)
EQUATION_QUESTIONS = (
    "Solve ${problem}$ for x. The solution is a key: what is its value?",
    "Find x with ${problem}$ and give the value stored under key x.",
    "Let x satisfy ${problem}$. Which value belongs to key x?",
)
# The other keys within a window of so many numbers come first, in random order; the next ones
# follow outwards.
WINDOW = 100
# How many problems are drawn before the settings are refused; usual settings need a few.
MAX_DRAWS = 2_000


def arithmetic(
    rng: np.random.Generator, terms: tuple[int, int], operators: str
) -> tuple[str, str, int]:
    """Draw an integer-valued expression over numbers 0 to 99.

    Returns:
      The problem in LaTeX, its worked steps, and the result.

    Raises:
      TaskInputError: hardly any such expression has an integer result below 10,000.
    """
    for _ in range(MAX_DRAWS):
        size = int(rng.integers(terms[0], terms[1] + 1))
        numbers = [int(n) for n in rng.integers(0, 100, size)]
        signs = [operators[i] for i in rng.integers(len(operators), size=size - 1)]
        solved = _work_out(numbers, signs)
        if solved is not None:
            break
    else:
        raise _no_problem(terms, f"whole result below 10,000 with operators = {operators!r}")
    problem = " ".join(
        [str(numbers[0]), *(f"{SIGNS[s]} {n}" for s, n in zip(signs, numbers[1:], strict=True))]
    )
    steps, result = solved
    return problem, ". ".join(steps) or f"The result is {result}", result


def _work_out(numbers: list[int], signs: list[str]) -> tuple[list[str], int] | None:
    """Evaluate products and quotients, then sums, each from the left; None if not an integer."""
    values, signs, steps = [Fraction(n) for n in numbers], list(signs), []
    for level in ("*/", "+-"):
        place = 0
        while place < len(signs):
            if signs[place] not in level:
                place += 1
                continue
            left, right, sign = values[place], values[place + 1], signs.pop(place)
            if sign == "/" and (right == 0 or left % right):
                return None
            result = {
                "+": left + right,
                "-": left - right,
                "*": left * right,
                "/": left / right if right else left,
            }[sign]
            steps.append(f"{left} {sign} {right} = {result}")
            values[place : place + 2] = [result]
    return (steps, int(values[0])) if abs(values[0]) < 10_000 else None


def equation(rng: np.random.Generator, terms: tuple[int, int]) -> tuple[str, str, int]:
    """Draw a linear equation with coefficients -10 to 9 and a whole solution -100 to 99.

    Returns:
      The problem in LaTeX, its worked steps, and the solution.

    Raises:
      TaskInputError: hardly any equation of this size is without a coefficient 0.
    """
    solution = int(rng.integers(-100, 100))
    for _ in range(MAX_DRAWS):
        size = int(rng.integers(terms[0], terms[1] + 1))
        coefficients = [int(c) for c in rng.integers(-10, 10, size)]
        # At least one term holds x, and the coefficients of x must not cancel.
        holds_x = [True, *(bool(b) for b in rng.integers(0, 2, size - 1))]
        slope = sum(c for c, x in zip(coefficients, holds_x, strict=True) if x)
        if slope and all(coefficients):
            break
    else:
        raise _no_problem(terms, "linear equation without a coefficient 0")
    offset = sum(c for c, x in zip(coefficients, holds_x, strict=True) if not x)
    order = rng.permutation(size)
    left = " ".join(_signed(coefficients[i], holds_x[i], first=n == 0) for n, i in enumerate(order))
    right = slope * solution + offset
    steps = []
    if size > 1:
        collected = (
            f"{slope}x {'-' if offset < 0 else '+'} {abs(offset)}" if offset else f"{slope}x"
        )
        steps.append(f"{collected} = {right}")
    if offset:
        steps.append(f"{slope}x = {right - offset}")
    steps.append(f"x = {right - offset} / {slope} = {solution}")
    return f"{left} = {right}", ". ".join(steps), solution


def _no_problem(terms: tuple[int, int], wanted: str) -> TaskInputError:
    return TaskInputError(
        f"data.terms = {terms} gave no {wanted} in {MAX_DRAWS:,} draws; lower it, such as (3, 5)"
    )


def _signed(coefficient: int, holds_x: bool, *, first: bool) -> str:
    term = f"{abs(coefficient)}{'x' if holds_x else ''}"
    if first:
        return f"-{term}" if coefficient < 0 else term
    return f"{'-' if coefficient < 0 else '+'} {term}"


def math_retrieval(
    settings: TaskSettings, split: str, stream: int, index: int, attempt: int
) -> Draft:
    """Draw an example: arithmetic for an even index, a linear equation for an odd one.

    The keys are consecutive numbers, or some of a hundred, and the solution is any of them with
    equal chance, at any number of keys: no place among the keys tells it, and an error in the
    working finds another value.
    """
    del split, attempt
    rng = generator("math_retrieval", stream, index)
    if index % 2 == 0:
        problem, working, result = arithmetic(rng, settings.terms, settings.operators)
        wordings = ARITHMETIC_QUESTIONS
    else:
        problem, working, result = equation(rng, settings.terms)
        wordings = EQUATION_QUESTIONS
    question = wordings[rng.integers(len(wordings))].format(problem=problem)
    # Each other key is below the solution with one chance, itself drawn uniformly, so that the
    # number of keys below is uniform too (Bayes' billiard table).
    below = rng.random(MOST_PAIRS) < rng.random()
    others = np.where(below, -1 * np.cumsum(below), np.cumsum(~below))
    rng.shuffle(others[:WINDOW])
    return lookup(
        rng,
        settings,
        keys=result + np.concatenate([[0], others]),
        question=question,
        working=working,
        math_answer=str(result),
    )


def value_or_number(contains: Callable[[str, str], float]) -> Score:
    """Return the score of the value, with some credit for the number that leads to it.

    Args:
      contains: whether an answer contains a value.
    """

    def score(
        answer: str, spans: Sequence[str], truth: GroundTruth, settings: RewardSettings
    ) -> float:
        del spans
        found = max(contains(answer, accepted) for accepted in truth.answers)
        return max(found, settings.math_answer_credit * contains(answer, truth.math_answer))

    return score


MATH_RETRIEVAL = Dataset(
    name="math_retrieval",
    category="reasoning_retrieval",
    draft=math_retrieval,
    score=value_or_number(answers.contains_value),
    exact_match=exact_value,
    metrics={"exact_match": exact_value, "answer_contained": value},
    reward=ROW,
)
