"""Three suites of this project that need no files, in forms that the field uses.

* `own_solve`: facts to retrieve and a sum to work out from them, as in RULERv2's tasks that go from
  retrieval to reasoning.
* `own_coreference`: a conversation in which the same thing is asked for several times; one of the
  replies must be repeated, as in MRCR (multi-round coreference resolution, OpenAI 2025).
* `own_chain`: a chain of UUIDs that leads from a start to the question itself, as in KeyChain
  (arXiv 2510.19363).

The rows are made here and are not the official ones, so scores compare policies with each other
and not with published numbers. Prompts ask for a thought, recall and a last line `Answer: …`.
"""

import dataclasses
import difflib
import functools
import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.prompts.context import Draft, Example, Range, generator, join
from tasks.prompts.fitting import fit
from tasks.prompts.record import Record
from tasks.prompts.settings import TaskSettings
from tasks.prompts.system_prompts import SYSTEMS
from tasks.prompts.tokenised import tokenised
from tasks.prompts.vocabulary import END_RECALL, START_RECALL, Tokenizer
from tasks.prompts.words import word_list
from tasks.scoring import answers, mathematics
from tasks.sources.haystack import own_sentences
from tasks.suites.task import Scores, SuiteTask, task_at

# More items than any prompt of 128K tokens holds.
MOST_ITEMS = 40_000
NEEDED, HOPS, REPEATS = (3, 5), 4, 4
# So many of the facts about other goods are about a shop that is asked for.
OF_WANTED = 0.02
FORMS = ("poem", "note", "letter", "story", "speech", "review")
GOODS = ("lamps", "chairs", "books", "maps", "boots", "clocks", "kettles", "drums")
REPLY_SENTENCES = 3


def tasks() -> tuple[SuiteTask, ...]:
    """Return the three tasks."""
    return tuple(
        SuiteTask(
            name=name,
            max_new_tokens=None,
            records=functools.partial(_records, name, draft),
            score=score,
        )
        for name, draft, score in (
            ("own_solve", solve, score_number),
            ("own_coreference", coreference, score_reply),
            ("own_chain", chain, score_value),
        )
    )


def _records(
    name: str,
    draft: Callable[[int, int], Draft],
    tokenizer: Tokenizer,
    settings: TaskSettings,
    length: int,
    count: int,
    seed: int,
) -> list[Record]:
    records = []
    for index in range(count):
        place = f"{task_at(name, length)}/{index}"
        prompted = fit(draft(seed, index), tokenizer, length, settings)
        rng = generator(f"{name}/demonstration", seed, index)
        records.append(tokenised(place, name, prompted, tokenizer, settings, rng))
    return records


def solve(seed: int, index: int) -> Draft:
    """Draw a row: how much some shops have together, among facts about other shops."""
    rng = generator("own_solve", seed, index)
    names = _names(rng)
    goods = GOODS[rng.integers(len(GOODS))]
    wanted = list(itertools.islice(names, int(rng.integers(NEEDED[0], NEEDED[1] + 1))))
    stock = {name: int(rng.integers(11, 99)) for name in wanted}
    depths = rng.random(len(wanted))
    total = sum(stock.values())

    def fact(name: str, what: str, number: int) -> str:
        return f"The shop {name} has {number} {what} in stock."

    others: list[str] = []

    def more(number: int) -> list[str]:
        while len(others) < number:
            others.append(fact(*_other_fact(names, wanted, goods, rng)))
        return others[:number]

    asked = f"{', '.join(wanted[:-1])} and {wanted[-1]}"
    question = (
        f"Some shops are described above. How many {goods} do {asked} have together? "
        "Add up what each of them has. End with one line Answer: and the number."
    )
    gold = [fact(name, goods, stock[name]) for name in wanted]
    return _draft(rng, Lines("Read these lines.", more, gold, depths, question, str(total)))


def _other_fact(
    names: Iterator[str], wanted: list[str], goods: str, rng: np.random.Generator
) -> tuple[str, str, int]:
    """Draw a fact that is not asked for: of another shop, or of other goods of a wanted one."""
    what = GOODS[int(rng.integers(len(GOODS)))]
    number = int(rng.integers(11, 99))
    if what == goods or rng.random() > OF_WANTED:
        return next(names), what, number
    return wanted[int(rng.integers(len(wanted)))], what, number


def coreference(seed: int, index: int) -> Draft:
    """Draw a row: one of several replies to the same request, in a long conversation."""
    rng = generator("own_coreference", seed, index)
    sentences = own_sentences(rng)
    topics = list(word_list("nouns"))
    form, topic = FORMS[rng.integers(len(FORMS))], topics[rng.integers(len(topics))]

    def turn(of_form: str, of_topic: str) -> tuple[str, str]:
        reply = " ".join(next(sentences) for _ in range(REPLY_SENTENCES))
        return f"User: Write a {of_form} about {of_topic}.\nAssistant: {reply}", reply

    same = [turn(form, topic) for _ in range(REPEATS)]
    others: list[str] = []

    def more(number: int) -> list[str]:
        while len(others) < number:
            of_form = FORMS[rng.integers(len(FORMS))]
            of_topic = topics[rng.integers(len(topics))]
            if (of_form, of_topic) != (form, topic):
                others.append(turn(of_form, of_topic)[0])
        return others[:number]

    depths = np.sort(rng.random(REPEATS))
    number = int(rng.integers(REPEATS))
    mark = "".join(rng.choice(list("abcdefghjkmnpqrstuvwxyz23456789"), 8).tolist())
    ordinal = ("first", "second", "third", "fourth")[number]
    question = (
        f"This was a conversation. Repeat the {ordinal} {form} about {topic} word for word, in one "
        f"line that begins with Answer: {mark} and has nothing else."
    )
    gold = [text for text, _ in same]
    answer = f"{mark} {same[number][1]}"
    lines = Lines("Here is a conversation.", more, gold, depths, question, answer, only=number)
    return _draft(rng, lines)


def chain(seed: int, index: int) -> Draft:
    """Draw a row: a chain of UUIDs to the question, and the fact that answers it."""
    rng = generator("own_chain", seed, index)
    names = _names(rng)
    towns = [next(names) for _ in range(100)]

    def identifier() -> str:
        return str(uuid.UUID(bytes=rng.bytes(16), version=4))

    def links(person: str) -> tuple[str, list[str]]:
        keys = [identifier() for _ in range(HOPS)]
        lines = [f"{a} leads to {b}." for a, b in itertools.pairwise(keys)]
        return keys[0], [*lines, f"{keys[-1]} asks: In which town does {person} live?"]

    # Everyone has a name and a town drawn alike, so that only the chain tells who is asked for.
    def draw() -> tuple[str, str, list[str]]:
        person, town = next(names), towns[rng.integers(len(towns))]
        start, lines = links(person)
        return start, town, [*lines, f"{person} lives in {town}."]

    start, town, gold = draw()
    # The lines of a chain stand apart from each other, as the gold ones do.
    others: list[tuple[float, str]] = []

    def more(number: int) -> list[str]:
        while len(others) < number:
            lines = draw()[2]
            others.extend(zip(rng.random(len(lines)).tolist(), lines, strict=True))
        return [line for _, line in sorted(others[:number])]

    depths = rng.random(len(gold))
    question = (
        "Each line above leads from one key to another, or to a question. Start at "
        f"{start}, follow the lines to the question at the end, and answer it. End with one line "
        "Answer: and the town."
    )
    return _draft(rng, Lines("These lines are in no order.", more, gold, depths, question, town))


@dataclasses.dataclass(frozen=True)
class Lines:
    """A row before it has a length.

    Attributes:
      more: returns the first ones of the lines that are not gold.
      gold, depths: the lines that lead to the answer, and how deep each stands, from 0 to 1.
      only: the number of the only gold line that is to be recalled; None: all.
    """

    introduction: str
    more: Callable[[int], list[str]]
    gold: Sequence[str]
    depths: np.ndarray
    question: str
    answer: str
    only: int | None = None


def _draft(rng: np.random.Generator, row: Lines) -> Draft:
    """Return a draft: the lines with the gold ones at their depths, then the question."""
    system = SYSTEMS[rng.integers(len(SYSTEMS))]
    before, gold = f"{row.introduction}\n\n", row.gold

    def example(num_fillers: int) -> Example:
        lines = row.more(num_fillers)
        places = np.floor(row.depths * (len(lines) + 1)).astype(int)
        items: list[str] = []
        numbers: dict[int, int] = {}
        # Gold lines at one place keep their order.
        order = sorted(range(len(gold)), key=lambda i: (places[i], i))
        for place in range(len(lines) + 1):
            while order and places[order[0]] == place:
                numbers[order[0]] = len(items)
                items.append(gold[order.pop(0)])
            items += lines[place : place + 1]
        document, ranges = join(items, "\n", len(before))
        wanted = range(len(gold)) if row.only is None else [row.only]
        recalled: tuple[Range, ...] = tuple(ranges[numbers[i]] for i in wanted)
        return Example(
            system=system,
            user=f"{before}{document}\n\n{row.question}",
            documents=((len(before), len(before) + len(document)),),
            gold=recalled,
            truth={"answers": [row.answer]},
        )

    return Draft(example, most=MOST_ITEMS)


def _names(rng: np.random.Generator) -> Iterator[str]:
    """Yield distinct made-up names, such as "Amber Wick", in random order."""
    first, last = word_list("adjectives"), word_list("nouns")
    for number in rng.permutation(len(first) * len(last)):
        yield f"{first[number % len(first)]} {last[number // len(first)]}".title()


def score_number(response: str, truth: Mapping[str, Any]) -> Scores:
    """Return whether the answer is the number."""
    answer = answers.extract_answer(response)
    return {"accuracy": mathematics.equal_expressions(answer, truth["answers"][0])}


def score_value(response: str, truth: Mapping[str, Any]) -> Scores:
    """Return whether the answer is the value, normalised."""
    return {
        "accuracy": answers.is_equal_normalised(
            answers.extract_answer(response), truth["answers"][0]
        )
    }


def score_reply(response: str, truth: Mapping[str, Any]) -> Scores:
    """Return MRCR's score: the likeness of the texts by difflib, 0 without the mark in front."""
    # Not undressed: the reply is to be repeated word for word.
    answer = answers.bare_answer(response).replace(START_RECALL, "").replace(END_RECALL, "")
    mark, _, text = truth["answers"][0].partition(" ")
    if not answer.startswith(mark):
        return {"likeness": 0.0}
    given = answer.removeprefix(mark).strip()
    return {"likeness": difflib.SequenceMatcher(None, given, text).ratio()}
