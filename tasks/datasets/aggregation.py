"""Category `aggregation`: count votes (datasets `majority_vote`, `top_n_vote`).

The votes of an example are the beginning of an endless sequence, so that one more vote does not
change the others. Every beginning, from the shortest one that is offered on, has these properties:

* majority_vote: the winner's share lies within its level's bounds, and it alone has the most votes;
* top_n_vote: each of the top N has more votes than any other option, and the shares approach those
  of the level's Zipf law as votes are added.

A prompt below some 1,650 tokens may be too short for the harder levels; then an easier one is used.

Nothing needs to be recalled: the model learns when not to recall (arXiv 2604.09494, appendix B).
"""

import collections
import dataclasses
import functools
import itertools
import math
import string
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from tasks.datasets.dataset import Dataset
from tasks.prompts.context import Demonstration, Draft, Example, around, generator, question_place
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.prompts.words import word_list
from tasks.scoring import candidates
from tasks.scoring.reward import RewardRow, full, of_answer
from tasks.scoring.truth import GroundTruth

# The rates of the levels easy, medium and hard.
LEVEL_RATES = (0.45, 0.45, 0.10)
MOST_VOTES = 12_000
# The most tokens of one vote, and of all the rest: a short prompt gets an easier level.
VOTE_TOKENS, OTHER_TOKENS = 30, 450
# Another option has at most this part of the winner's share, apart from rounding.
RUNNER_UP = 0.8


@dataclasses.dataclass(frozen=True)
class MajorityLevel:
    """The range of the number of options, and of the winner's share of the votes in percent."""

    options: tuple[int, int]
    percent: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class TopLevel:
    """How many options are asked for, of how many, and how far their votes are apart.

    Attributes:
      zipf: the option of rank r has a share in proportion to 1 / r^zipf.
      separation: the last of the top options has this many times the votes of the next one; the
        shares of all options below the top are scaled down together.
    """

    top: int
    options: tuple[int, int]
    zipf: float
    separation: float


MAJORITY_LEVELS = (
    MajorityLevel((2, 2), (60, 70)),
    MajorityLevel((3, 5), (40, 55)),
    MajorityLevel((6, 10), (30, 40)),
)
TOP_LEVELS = (
    TopLevel(3, (8, 12), 1.5, 3.0),
    TopLevel(5, (12, 20), 1.0, 1.5),
    TopLevel(10, (20, 30), 0.5, 1.1),
)

INTRODUCTIONS = (
    "Here is the record of a roll-call vote, one delegate a line.",
    "The delegates of an assembly have voted, each once. These are their votes.",
    "Below are all the votes that were cast, in no particular order.",
    "This is the list of votes of a meeting; every line is one vote.",
)
MAJORITY_QUESTIONS = (
    "Which option received the most votes? Answer with its name.",
    "Count the votes. Which option has won, having more votes than any other?",
    "Find out which option most delegates voted for, and name it.",
    "What is the name of the option with the largest number of votes?",
)
TOP_QUESTIONS = (
    "Which {top} options received the most votes? Name them, separated by commas.",
    "Count the votes and list the {top} options with the most of them, separated by commas.",
    "Name the {top} leading options by number of votes, with commas between them.",
    "The {top} options with the most votes go through to the next round. Which are they? "
    "Separate their names by commas.",
)
TALLIES = (
    "Single lines don't tell who leads, so I count all the votes of each option.",
    "Every vote matters here; nothing needs to be recalled. My count for each option:",
    "I go through the votes from the first to the last and keep a count for each option.",
    "This is a question of counting, not of looking something up. The totals:",
)
CLOSINGS = (
    "This follows from the count.",
    "The totals decide it.",
    "I counted all the votes.",
)

Tally = list[tuple[str, int]]


def majority_vote(
    settings: TaskSettings, split: str, stream: int, index: int, attempt: int
) -> Draft:
    """Draw an example that asks for the option with the most votes."""
    del split, attempt
    rng = generator("majority_vote", stream, index)
    fewest = [max(10, 2 * level.options[1]) for level in MAJORITY_LEVELS]
    level = MAJORITY_LEVELS[_drawn_level(rng, settings, fewest)]
    options = option_names(rng, _between(rng, level.options))
    low, high = level.percent
    share = float(rng.uniform(low, high)) / 100
    others = _others(rng, len(options) - 1, most=RUNNER_UP * share / (1 - share))
    winner = options[0]
    return _ballot(
        rng,
        options,
        majority_sequence(share, others, level.percent),
        fewest=max(10, 2 * len(options)),
        question=MAJORITY_QUESTIONS[rng.integers(len(MAJORITY_QUESTIONS))],
        truth=lambda _: {"answers": [winner, winner.split()[-1]], "wrong": options[1:]},
        demonstrate=_demonstrate_majority,
    )


def top_n_vote(settings: TaskSettings, split: str, stream: int, index: int, attempt: int) -> Draft:
    """Draw an example that asks for the N options with the most votes."""
    del split, attempt
    rng = generator("top_n_vote", stream, index)
    fewest = [level.options[1] + level.top for level in TOP_LEVELS]
    level = TOP_LEVELS[_drawn_level(rng, settings, fewest)]
    top = level.top
    options = option_names(rng, _between(rng, level.options))

    def truth(tally: Tally) -> dict:
        names = [name for name, _ in tally[:top]]
        return {
            "answers": [", ".join(names)],
            "parts": [[name, name.split()[-1]] for name in names],
            "wrong": [name for name, _ in tally[top:]],
        }

    return _ballot(
        rng,
        options,
        top_sequence(zipf_shares(level, len(options)), top),
        fewest=len(options) + top,
        question=TOP_QUESTIONS[rng.integers(len(TOP_QUESTIONS))].format(top=top),
        truth=truth,
        demonstrate=functools.partial(_demonstrate_top, top),
    )


def _drawn_level(rng: np.random.Generator, settings: TaskSettings, fewest: Sequence[int]) -> int:
    """Draw a level; if its fewest votes do not fit, take the hardest that fits, or the easiest."""
    room = (settings.target_length - OTHER_TOKENS) // VOTE_TOKENS
    hardest = max([level for level, votes in enumerate(fewest) if votes <= room], default=0)
    return min(int(rng.choice(len(fewest), p=LEVEL_RATES)), hardest)


def _between(rng: np.random.Generator, bounds: tuple[int, int]) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


def option_names(rng: np.random.Generator, number: int) -> list[str]:
    """Draw names that share no word, each with a letter and a digit as its last word."""
    letters = [letter for letter in string.ascii_uppercase if letter not in "IO"]
    columns = (
        [word.title() for word in word_list("adjectives")],
        [word.title() for word in word_list("nouns")],
        [f"{letter}{digit}" for letter in letters for digit in range(2, 10)],
    )
    drawn = [[column[i] for i in rng.permutation(len(column))[:number]] for column in columns]
    return [" ".join(words) for words in zip(*drawn, strict=True)]


def delegate_names(rng: np.random.Generator, number: int) -> Callable[[int], str]:
    """Draw different delegates, people or numbers, and return a function from place to name."""
    if rng.random() < 0.5:
        numbers = 10_000 + rng.choice(90_000, number, replace=False)
        return lambda place: f"Delegate {numbers[place]}"
    first_names, last_names = word_list("first_names"), word_list("last_names")
    sizes = (len(first_names), len(string.ascii_uppercase), len(last_names))
    drawn = rng.choice(math.prod(sizes), number, replace=False)
    firsts, initials, lasts = np.unravel_index(drawn, sizes)

    def name(place: int) -> str:
        initial = string.ascii_uppercase[initials[place]]
        return f"{first_names[firsts[place]]} {initial}. {last_names[lasts[place]]}"

    return name


def _others(rng: np.random.Generator, number: int, most: float) -> list[float]:
    """Draw the other options' shares of the votes that the winner does not get, none above `most`.

    The shares are drawn freely, and moved towards equal shares as far as needed.
    """
    drawn = rng.uniform(0.5, 1.5, number)
    shares, equal = drawn / drawn.sum(), 1 / number
    if shares.max() > most > equal:
        shares = equal + (shares - equal) * (most - equal) / (shares.max() - equal)
    return shares.tolist()


def zipf_shares(level: TopLevel, number: int) -> list[float]:
    """Return the options' shares of the votes, the largest first."""
    shares = np.arange(1, number + 1) ** -level.zipf
    natural = shares[level.top - 1] / shares[level.top]
    shares[level.top :] *= natural / level.separation
    return (shares / shares.sum()).tolist()


def majority_sequence(
    share: float, others: Sequence[float], percent: tuple[int, int]
) -> Iterator[int]:
    """Yield the option of each vote, 0 for the winner.

    After v votes the winner has the number of votes within the bounds that is nearest to share * v;
    there is such a number from 10 votes on. The others always have fewer.

    Args:
      others: the other options' shares of the votes that the winner does not get.
    """
    low, high = percent
    counts, winners = [0] * len(others), 0
    for votes in itertools.count(1):
        # The middle of three numbers, each of which grows by at most 1 for a vote.
        wanted = sorted([-(-low * votes // 100), round(share * votes), high * votes // 100])[1]
        if wanted > winners:
            winners += 1
            yield 0
            continue
        behind = [place for place, count in enumerate(counts) if count + 1 < winners]
        neediest = _neediest(others, counts, behind or [counts.index(min(counts))])
        counts[neediest] += 1
        yield 1 + neediest


def top_sequence(shares: Sequence[float], top: int) -> Iterator[int]:
    """Yield the option of each vote: the `top` first options twice, the others once, then by share.

    The others always have fewer votes than each of the top ones, and wait for a vote if they must.
    """
    yield from (*range(top), *range(len(shares)))
    counts = [2] * top + [1] * (len(shares) - top)
    while True:
        least = min(counts[:top])
        places = [place for place, count in enumerate(counts) if place < top or count + 1 < least]
        neediest = _neediest(shares, counts, places)
        counts[neediest] += 1
        yield neediest


def _neediest(shares: Sequence[float], counts: Sequence[int], places: Sequence[int]) -> int:
    """Return the place that lacks the most votes of its share, counting the next vote.

    Places without a vote come first.
    """
    votes = sum(counts) + 1
    return max(places, key=lambda place: (not counts[place], shares[place] * votes - counts[place]))


def _ballot(
    rng: np.random.Generator,
    options: Sequence[str],
    sequence: Iterable[int],
    *,
    fewest: int,
    question: str,
    truth: Callable[[Tally], dict],
    demonstrate: Callable[[Tally, np.random.Generator], Demonstration],
) -> Draft:
    """Return an example of at least `fewest` votes, in random order.

    Args:
      truth, demonstrate: functions of the options and their votes, most votes first.
    """
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    introduction = INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))]
    before, after = around(question, introduction, question_place(rng))
    delegate = delegate_names(rng, MOST_VOTES)
    order = rng.random(MOST_VOTES)
    endless = iter(sequence)
    votes: list[int] = []
    lines: list[str] = []

    def example(num_fillers: int) -> Example:
        number = fewest + num_fillers
        votes.extend(itertools.islice(endless, max(0, number - len(votes))))
        lines.extend(
            f"{delegate(place)} votes for: {options[votes[place]]}"
            for place in range(len(lines), number)
        )
        document = "\n".join([lines[place] for place in np.argsort(order[:number])])
        counts = collections.Counter(votes[:number])
        # The sort is stable: options with equal votes keep their order.
        ranked = sorted(range(len(options)), key=lambda option: -counts[option])
        tally = [(options[option], counts[option]) for option in ranked]
        return Example(
            system=system,
            user=before + document + after,
            documents=((len(before), len(before) + len(document)),),
            gold=(),
            truth=truth(tally),
            demonstrate=functools.partial(demonstrate, tally),
        )

    return Draft(example, most=MOST_VOTES - fewest)


def _tallied(tally: Tally, rng: np.random.Generator) -> str:
    """Return a thought that gives the totals of the options, in a drawn order."""
    shuffled = [tally[place] for place in rng.permutation(len(tally))]
    counted = "\n".join(f"{name}: {count}" for name, count in shuffled)
    return f"{TALLIES[rng.integers(len(TALLIES))]}\n{counted}\n"


def _demonstrate_majority(tally: Tally, rng: np.random.Generator) -> Demonstration:
    thought = _tallied(tally, rng)
    winner, count = tally[0]
    thought += f"The most votes, {count}, went to {winner}; next comes {tally[1][0]}."
    return Demonstration((thought,), CLOSINGS[rng.integers(len(CLOSINGS))], winner)


def _demonstrate_top(top: int, tally: Tally, rng: np.random.Generator) -> Demonstration:
    thought = _tallied(tally, rng)
    (last, fewest), (following, fewer) = tally[top - 1], tally[top]
    thought += f"Place {top} goes to {last} with {fewest} votes, ahead of {following} with {fewer}."
    answer = ", ".join([name for name, _ in tally[:top]])
    return Demonstration((thought,), CLOSINGS[rng.integers(len(CLOSINGS))], answer)


@of_answer
def majority(answer: str, truth: GroundTruth) -> float:
    """Return 1 if the answer names the winner and no other option."""
    return candidates.majority(answer, truth.answers, truth.wrong)


@of_answer
def top_votes(answer: str, truth: GroundTruth) -> float:
    """Return max(0, right options - wrong options) over the options asked for."""
    return candidates.top_votes(answer, truth.all_parts, truth.wrong)


# There are no gold documents, so the threshold 1 is never used.
ROW = RewardRow(hit_threshold=1.0, min_span=5, gold_mode="always_1", free_spans=2)
MAJORITY_VOTE = Dataset(
    name="majority_vote",
    category="aggregation",
    draft=majority_vote,
    score=majority,
    metrics={"accuracy": majority},
    reward=ROW,
)
TOP_N_VOTE = Dataset(
    name="top_n_vote",
    category="aggregation",
    draft=top_n_vote,
    score=top_votes,
    metrics={"exact_match": full(top_votes), "options_found": top_votes},
    reward=ROW,
)
