"""Running text to hide needles in: sentences of our own, or of essays where a file has some."""

import functools
import itertools
import re
from collections.abc import Callable, Iterator

import numpy as np

from tasks.errors import TaskInputError
from tasks.sources.essays import read_essays

# Longer ones are lists, tables or code.
LONGEST_SENTENCE = 600

_END = re.compile(r"[.!?][\"')\]\u201d\u2019]*\s+(?=[\"'(\[\u201c]?[A-Z0-9])")
# Where essays were joined without a space: "accelerating.We".
_JOINED = re.compile(r"(?<=[a-z)\]][.!?])(?=[A-Z][a-z' ])")

_PEOPLE = (
    "the baker",
    "a retired surveyor",
    "the youngest clerk",
    "our neighbour",
    "the harbour pilot",
    "an old friend of the family",
    "the school's gardener",
    "the night porter",
    "a travelling musician",
    "the librarian",
    "the woman from the ferry",
    "a student of botany",
    "the cook",
    "the village doctor",
    "the apprentice",
    "a visiting engineer",
    "the bookbinder",
    "the lighthouse keeper",
    "the postman",
    "a quiet lodger",
    "the choir's conductor",
    "the town's only tailor",
    "the beekeeper",
    "a weather observer",
)
_DEEDS = (
    "mended the fence",
    "waited for the afternoon train",
    "wrote a long letter",
    "painted the shutters",
    "sorted the old photographs",
    "carried the benches inside",
    "read the paper twice",
    "swept the yard",
    "measured the height of the water",
    "forgot the umbrella",
    "bought a basket of pears",
    "repaired the clock",
    "practised the same tune",
    "watched the boats return",
    "learned a few words of another language",
    "moved the chairs closer to the stove",
    "copied the recipe by hand",
    "looked for the missing key",
    "planted two rows of beans",
    "drew a map of the valley",
    "closed the shop early",
    "told the story once more",
    "counted the sacks of flour",
    "borrowed a bicycle",
)
_TIMES = (
    "on the first warm day of the year",
    "before breakfast",
    "late in the evening",
    "during the long holidays",
    "after the rain had stopped",
    "every other week",
    "in the middle of the harvest",
    "when the bells had fallen silent",
    "just before the fair",
    "on the way home",
    "while the kettle was boiling",
    "in those years",
    "at the end of a slow morning",
    "long after the others had left",
    "for most of the winter",
    "without saying much about it",
    "as the light began to fade",
    "the summer before last",
)
_PLACES = (
    "behind the mill",
    "near the old bridge",
    "at the edge of the village",
    "in the back room",
    "down by the landing stage",
    "on the hill above the station",
    "under the chestnut trees",
    "across the square",
    "in the reading room",
    "along the canal",
    "outside the bakery",
    "in a corner of the market hall",
    "next to the pump house",
    "on the upper floor",
    "at the far end of the lane",
    "beside the greenhouse",
)
_THINGS = (
    "the path to the quarry",
    "the price of firewood",
    "a good loaf of bread",
    "the sound of the river",
    "the new timetable",
    "an honest answer",
    "the colour of the roof tiles",
    "the habit of walking slowly",
    "the smell of fresh hay",
    "a well-kept ledger",
    "the view from the tower",
    "the last house on the road",
    "an evening of cards",
    "the shape of the coastline",
    "the work of many hands",
    "the first frost",
    "a borrowed coat",
    "the noise of the workshop",
    "a small piece of luck",
    "the silence after a concert",
)
_QUALITIES = (
    "harder to describe than to remember",
    "worth the trouble",
    "older than it looks",
    "seldom what people expect",
    "not to everybody's taste",
    "easily mistaken for something else",
    "better in company",
    "a matter of patience",
    "never quite the same twice",
    "the talk of the whole street",
    "of little use to a stranger",
    "more a question of weather than of skill",
    "rarely mentioned today",
    "a comfort in hard times",
    "part of every childhood here",
    "cheaper in the spring",
)
_OPINIONS = (
    "people used to say that",
    "it is hardly surprising that",
    "nobody could explain why",
    "it was often said that",
    "few visitors notice that",
    "most of us had forgotten that",
    "there is no doubt that",
    "somebody must have known that",
    "the children were certain that",
    "it took years to find out that",
    "one might think that",
    "the older ones still insist that",
)
_LINKS = ("and", "but", "so", "while", "although", "because", "and yet", "even though")
# Each with the lists that fill its gaps, in order.
_TEMPLATES: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("{} {} {}.", (_PEOPLE, _DEEDS, _TIMES)),
    ("{} {} {}.", (_PEOPLE, _DEEDS, _PLACES)),
    ("{}, {} {} {}.", (_TIMES, _PEOPLE, _DEEDS, _PLACES)),
    ("{}, {} is {}.", (_PLACES, _THINGS, _QUALITIES)),
    ("{} asked {} whether {} is {}.", (_PEOPLE, _PEOPLE, _THINGS, _QUALITIES)),
    ("{} {} is {}.", (_OPINIONS, _THINGS, _QUALITIES)),
    ("{} {} {} {}.", (_OPINIONS, _PEOPLE, _DEEDS, _TIMES)),
    ("{} {}, {} {} {} {}.", (_PEOPLE, _DEEDS, _LINKS, _PEOPLE, _DEEDS, _PLACES)),
    ("{} {} {}, {} {} was {}.", (_PEOPLE, _DEEDS, _TIMES, _LINKS, _THINGS, _QUALITIES)),
    ("{} there was talk of {}, {} {} {}.", (_PLACES, _THINGS, _LINKS, _PEOPLE, _DEEDS)),
    ("who would have thought that {} {} {}?", (_PEOPLE, _DEEDS, _PLACES)),
    ("{} {} {}; {} was {}.", (_TIMES, _PEOPLE, _DEEDS, _THINGS, _QUALITIES)),
    ("{}, like {}, is {}.", (_THINGS, _THINGS, _QUALITIES)),
)
_MOST_GAPS = max(len(lists) for _, lists in _TEMPLATES)
# Numbers drawn at a time.
_CHUNK = 512


def haystack(data_dir: str, rng: np.random.Generator) -> Callable[[int], list[str]]:
    """Return what gives the first sentences of a running text, any number of them.

    Where the data folder has essays (tasks/sources/essays.py), they are its sentences in its order
    from a random one on, and begin anew at its end: the usual 0.5 MB of essays hold some 110,000
    tokens, and a longer text repeats them. Else they are our own: of 7,000 in a row, about what
    128K tokens hold, a short one may come twice, but hardly ever two.
    """
    sentences = essay_sentences(data_dir)
    endless: Iterator[str]
    if sentences:
        first = int(rng.integers(len(sentences)))
        endless = itertools.islice(itertools.cycle(sentences), first, None)
    else:
        endless = own_sentences(rng)
    known: list[str] = []

    def beginning(number: int) -> list[str]:
        known.extend(itertools.islice(endless, max(0, number - len(known))))
        return known[:number]

    return beginning


def own_sentences(rng: np.random.Generator) -> Iterator[str]:
    """Yield sentences of our own without end."""
    while True:
        drawn = rng.random((_CHUNK, 1 + _MOST_GAPS))
        for template, *gaps in drawn.tolist():
            pattern, lists = _TEMPLATES[int(template * len(_TEMPLATES))]
            words: list[str] = []
            for choices, gap in zip(lists, gaps, strict=False):
                place = int(gap * len(choices))
                # Nobody asks himself.
                words.append(choices[place - 1] if choices[place] in words else choices[place])
            sentence = pattern.format(*words)
            yield sentence[0].upper() + sentence[1:]


@functools.lru_cache(maxsize=8)
def essay_sentences(data_dir: str) -> tuple[str, ...]:
    """Return the sentences of the essays in a data folder, () where it has none; split once.

    Raises:
      TaskInputError: see `read_essays`; or all sentences are of absurd length.
    """
    text = read_essays(data_dir)
    sentences = tuple(split_sentences(text))
    if text and not sentences:
        raise TaskInputError(
            f"the essays in config.data.dir = {data_dir!r} have no sentence of at most "
            f"{LONGEST_SENTENCE} characters; give essays, or take them away"
        )
    return sentences


@functools.lru_cache(maxsize=8)
def essay_text(data_dir: str) -> str:
    """Return the sentences of the essays in a data folder as one text, "" where it has none."""
    return " ".join(essay_sentences(data_dir))


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, line breaks as spaces; without those of absurd length."""
    text = _JOINED.sub(" ", " ".join(text.split()))
    places = [0, *[match.end() for match in _END.finditer(text)], len(text)]
    pieces = [text[a:b].strip() for a, b in itertools.pairwise(places)]
    return [piece for piece in pieces if 0 < len(piece) <= LONGEST_SENTENCE]
