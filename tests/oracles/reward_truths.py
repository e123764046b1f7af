"""One small prompt of every data set: a right answer, and what a gaming one would give."""

import dataclasses

from tasks.scoring.truth import GroundTruth


@dataclasses.dataclass(frozen=True)
class Case:
    """A prompt's truth.

    Attributes:
      right: a full answer.
      listing: the prompt's candidates, all of them.
      context: the documents of the prompt, as they stand in it.
    """

    truth: GroundTruth
    right: str
    listing: str
    context: str


FILLER = "Nothing of note happens here, and a man walks on. "
PAIRS = [f"Key {key}:\n{value}" for key, value in ((7, "aB3dE6gH9k"), (8, "zZ1zZ1zZ1z"))]
NEEDLES = [
    f"One of the special magic numbers for {key} is: {value}."
    for key, value in (("calm-fox", "1234567"), ("calm-fox", "7654321"), ("red-owl", "5555555"))
]
SHOTS = ["send money\nlabel: 7", "lost card\nlabel: 3", "wire money\nlabel: 7"]
OPTIONS = {"A": "A small boat", "B": "The old house", "C": "No one", "D": "Both of them"}
SUMS = {"A": "12", "B": "$\\frac{1}{2}$", "C": "0.25", "D": "7"}
VOTES = ["Elm Street", "Harbor Lane", "Mill Road", "Oak Avenue", "Park Row", "High Way", "Low Path"]
RANKED = [f"[ID: {number}] Document: passage text number {number}" for number in range(1, 41)]
CITED = [
    f"Document [{number}](Title: t{number}): text about {name}"
    for number, name in enumerate(["Paris", "Rome", "Oslo", *["nobody"] * 37], 1)
]
PASSAGES = [f"[{number}] Title {number}: {FILLER * 3}" for number in range(1, 9)]
GOLD = ["[1] Paris: Paris is the capital of France.", "[2] Rome: Rome is in Italy."]


def _qa(dataset: str) -> Case:
    truth = GroundTruth(dataset, ("Paris", "City of Paris"), tuple(GOLD))
    titles = ", ".join(f"Title {number}" for number in range(1, 9))
    return Case(truth, "Paris", f"{titles}, Paris, Rome", "\n".join([*GOLD, *PASSAGES]))


def _shots(dataset: str) -> Case:
    truth = GroundTruth(dataset, ("7",), (SHOTS[0], SHOTS[2]), ("label: 7", "label: 7"))
    return Case(truth, "7", "3 7", "\n\n".join(SHOTS))


def _choice(dataset: str, options: dict[str, str]) -> Case:
    truth = GroundTruth(dataset, ("B",), choices=options)
    listing = " ".join(f"{letter}. {text}" for letter, text in options.items())
    return Case(truth, "B", listing, f"{FILLER * 40} {listing} {FILLER}")


_grades = {str(number): 2 if number in (38, 40) else int(number == 39) for number in range(1, 41)}
_retrieval = Case(
    GroundTruth("retrieval", ("aB3dE6gH9k",), (PAIRS[0],)),
    "aB3dE6gH9k",
    "aB3dE6gH9k zZ1zZ1zZ1z",
    "\n".join(PAIRS),
)
CASES = [
    _retrieval,
    dataclasses.replace(
        _retrieval,
        truth=dataclasses.replace(_retrieval.truth, dataset="math_retrieval", math_answer="7"),
    ),
    Case(
        GroundTruth(
            "multi_niah",
            ("1234567 7654321",),
            tuple(NEEDLES[:2]),
            parts=(("1234567",), ("7654321",)),
            wrong=("5555555",),
        ),
        "1234567 and 7654321",
        "1234567, 7654321, 5555555",
        f"{FILLER * 5}{NEEDLES[0]} {FILLER * 5}{NEEDLES[1]} {FILLER * 5}{NEEDLES[2]}",
    ),
    Case(GroundTruth("dapo_math", ("42",)), r"\boxed{42}", "40, 41, 42, 43", "1 2 3 42 " * 80),
    _choice("mcqa_math", SUMS),
    _shots("banking77"),
    _shots("massive"),
    _choice("quality", OPTIONS),
    Case(
        GroundTruth("majority_vote", ("Elm Street", "Street"), wrong=tuple(VOTES[1:])),
        "Elm Street",
        ", ".join(VOTES),
        "\n".join(f"Ann votes for: {name}" for name in VOTES),
    ),
    Case(
        GroundTruth(
            "top_n_vote",
            ("Elm Street, Harbor Lane",),
            parts=(("Elm Street", "Street"), ("Harbor Lane", "Lane")),
            wrong=tuple(VOTES[2:]),
        ),
        "Elm Street, Harbor Lane",
        ", ".join(VOTES),
        "\n".join(f"Ann votes for: {name}" for name in VOTES),
    ),
    Case(
        GroundTruth(
            "msmarco_v2",
            ("38 > 40 > 39",),
            tuple(RANKED[37:]),
            tuple(f"[ID: {number}]" for number in (38, 39, 40)),
            grades=_grades,
        ),
        "ID38 > ID40 > ID39",
        " > ".join(str(number) for number in range(1, 41)),
        "\n".join(RANKED),
    ),
    Case(
        GroundTruth(
            "qampari",
            ("Paris, Rome, Oslo",),
            tuple(CITED[:3]),
            tuple(f"[{number}]" for number in (1, 2, 3)),
            parts=(("Paris", "Lutetia"), ("Rome",), ("Oslo",)),
            grades={str(number): int(number < 4) for number in range(1, 41)},
        ),
        "Paris [1], Rome [2], Oslo [3]",
        " ".join(f"[{number}]" for number in range(1, 41)),
        "\n".join(CITED),
    ),
    *map(_qa, ("hotpotqa", "musique", "2wikimultihopqa", "nq", "triviaqa", "own_questions")),
]
