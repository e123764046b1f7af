"""Completions scored a second, with ten recall spans each, on one core.

    python -m benchmarks.rewards --out=runs/rewards.json

Prompts of about 8K tokens in the form of each category, with 16 completions each, as in training: a
thought of random words around ten spans, most of them parts of gold documents, then an answer that
is right, wrong, or a list of candidates. The whole reward is timed, with gold documents of the
category's size and number. Half of the mathematical answers are plain numbers. The others go
through math-verify, again in every repeat, in a separate process: wall time includes it, the
processor time of this process does not.
"""

import random
import statistics
import time
from collections.abc import Callable

from benchmarks.report import make_parser, write_report
from rl.rewards.composite import Completion, score
from tasks.datasets.registry import find
from tasks.scoring import mathematics
from tasks.scoring.reward import SETTINGS
from tasks.scoring.truth import GroundTruth

SPANS = 10
GROUP = 16
PROMPTS = 32


def words(rng: random.Random, count: int) -> str:
    """Return words of random letters."""
    return " ".join(
        "".join(rng.choices("aeioubcdfghklmnprst", k=rng.randint(2, 9))) for _ in range(count)
    )


def code(rng: random.Random) -> str:
    """Return a value in the form of `retrieval`."""
    return "".join(rng.choices("abcdefghABCDEFGH0123456789", k=10))


def recall(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """One pair."""
    values = [code(rng) for _ in range(4)]
    return GroundTruth("retrieval", (values[0],), (f"Key 1234:\n{values[0]}",)), values


def multi_niah(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """Eight needles of sixteen."""
    values = [str(rng.randint(10**6, 10**7)) for _ in range(16)]
    needles = [f"One of the special magic numbers for {words(rng, 1)} is: {v}." for v in values]
    truth = GroundTruth(
        "multi_niah",
        (" ".join(values[:8]),),
        tuple(needles[:8]),
        parts=tuple((v,) for v in values[:8]),
        wrong=tuple(values[8:]),
    )
    return truth, [", ".join(values[:8]), ", ".join(values[4:10]), ", ".join(values)]


def math_retrieval(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """One pair, and the number that leads to it."""
    values = [code(rng) for _ in range(3)]
    document = f"Key 1234:\n{values[0]}"
    truth = GroundTruth("math_retrieval", (values[0],), (document,), math_answer="1234")
    return truth, [*values, "1234"]


def short_context_math(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """A number, given plainly or as an expression."""
    number = rng.randint(10, 999)
    answers = [rf"\boxed{{{number}}}", str(number + 1), rf"$\frac{{{2 * number}}}{{2}}$"]
    return GroundTruth("dapo_math", (str(number),)), [*answers, rf"\boxed{{{number}x}}"]


def icl(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """Six demonstrations with the label."""
    demonstrations = tuple(f"{words(rng, 12)}\nlabel: 17" for _ in range(6))
    labels = ("label: 17",) * 6
    truth = GroundTruth("banking77", ("17",), demonstrations, gold_labels=labels)
    return truth, ["17", "18", "label: 17"]


def long_doc_qa(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """Four options."""
    options = {letter: words(rng, 12) for letter in "ABCD"}
    answers = ["B", "C", f"B. {options['B']}", "A or B"]
    return GroundTruth("quality", ("B",), choices=options), answers


def aggregation(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """Five options of sixteen."""
    names = [f"{words(rng, 1)} {words(rng, 1)}" for _ in range(16)]
    truth = GroundTruth(
        "top_n_vote",
        (", ".join(names[:5]),),
        parts=tuple((name, name.split()[-1]) for name in names[:5]),
        wrong=tuple(names[5:]),
    )
    return truth, [", ".join(names[:5]), ", ".join(names[3:8]), ", ".join(names)]


def passages(rng: random.Random, count: int, length: int, head: str) -> list[str]:
    """Return passages under a heading with their numbers."""
    return [f"{head.format(number)} {words(rng, length)}" for number in range(1, count + 1)]


def reranking(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """Five relevant passages of eighty."""
    ids = rng.sample(range(1, 81), 80)
    gold = passages(rng, 5, 60, "[ID: {}] Document:")
    truth = GroundTruth(
        "msmarco_v2",
        ("1 > 2 > 3 > 4 > 5",),
        tuple(gold),
        gold_labels=tuple(f"[ID: {number}]" for number in range(1, 6)),
        grades={str(number): int(number < 6) for number in range(1, 81)},
    )
    return truth, [" > ".join(f"ID{n}" for n in sorted(ids)), " > ".join(map(str, ids))]


def citation_qa(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """Ten answers in ten passages of sixty."""
    names = [words(rng, 2) for _ in range(10)]
    gold = passages(rng, 10, 100, "Document [{}](Title: a title):")
    truth = GroundTruth(
        "qampari",
        (", ".join(names),),
        tuple(gold),
        gold_labels=tuple(f"[{number}]" for number in range(1, 11)),
        parts=tuple((name, f"the {name}") for name in names),
        grades={str(number): int(number < 11) for number in range(1, 61)},
    )
    cited = ", ".join(f"{name} [{number}]" for number, name in enumerate(names, 1))
    return truth, [cited, f"{names[0]} [1][40], {words(rng, 2)} [41]", ", ".join(names)]


def multi_hop_qa(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """Two gold passages."""
    name = words(rng, 2)
    gold = tuple(passages(rng, 2, 100, "[{}] A title:"))
    return GroundTruth("hotpotqa", (name, f"the {name}"), gold), [name, words(rng, 2)]


def single_hop_qa(rng: random.Random) -> tuple[GroundTruth, list[str]]:
    """Three gold passages, twenty aliases."""
    names = tuple(words(rng, 2) for _ in range(20))
    gold = tuple(passages(rng, 3, 100, "Passage {}:"))
    return GroundTruth("triviaqa", names, gold), [names[3], words(rng, 2)]


CATEGORIES: dict[str, Callable[[random.Random], tuple[GroundTruth, list[str]]]] = {
    "recall": recall,
    "recall (multi_niah)": multi_niah,
    "reasoning_retrieval": math_retrieval,
    "short_context_math": short_context_math,
    "icl": icl,
    "long_doc_qa": long_doc_qa,
    "aggregation": aggregation,
    "reranking": reranking,
    "citation_qa": citation_qa,
    "multi_hop_qa": multi_hop_qa,
    "single_hop_qa": single_hop_qa,
}


def completion(rng: random.Random, truth: GroundTruth, answer: str) -> Completion:
    """Return a response of some 700 words with ten spans."""
    spans = []
    for number in range(SPANS):
        document = rng.choice(truth.gold_documents or (words(rng, 60),))
        first = rng.randrange(max(1, len(document) // 2))
        span = document[first : first + rng.randint(12, 500)]
        # A span that overlaps the document's end, as if it ran into the next document.
        tail = f"{document[-len(document) // 3 :]}\n\n{words(rng, 10)}"
        spans.append(tail if number % 4 == 3 else words(rng, 20) if number % 5 == 4 else span)
    thought = " ".join(f"{words(rng, 40)} <|start_recall|>{span}<|end_recall|>" for span in spans)
    text = f"{thought}\n</think>\n{words(rng, 8)}\nAnswer: {answer}"
    return Completion(text, 1_000, tuple(spans), SPANS, SPANS, finished=True)


def main() -> None:
    """Print the table, and write it as JSON to `--out`."""
    parser = make_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    print(f"{PROMPTS} prompts, {GROUP} completions each, {SPANS} spans a completion")
    print("category             completions/s  a processor second")
    for name, make in CATEGORIES.items():
        rng = random.Random(0)
        work = []
        for _ in range(PROMPTS):
            truth, answers = make(rng)
            work += [
                (completion(rng, truth, answers[i % len(answers)]), truth) for i in range(GROUP)
            ]
        # The rate does not include the start of math-verify's process.
        mathematics.equal_expressions("x", "y")
        rates, processor_rates = [], []
        for _ in range(arguments.repeats):
            mathematics.forget_verdicts()
            start, processor_start = time.perf_counter(), time.process_time()
            for response, truth in work:
                score(response, truth, SETTINGS["train"], find(truth.dataset))
            rates.append(len(work) / (time.perf_counter() - start))
            processor_rates.append(len(work) / (time.process_time() - processor_start))
        row = {
            "category": name,
            "per_second": statistics.median(rates),
            "per_processor_second": statistics.median(processor_rates),
        }
        rows.append(row)
        print(
            f"{name:20s} {row['per_second']:13,.0f}  {row['per_processor_second']:18,.0f}",
            flush=True,
        )
    write_report(arguments.out, rows, spans=SPANS, group=GROUP, prompts=PROMPTS)


if __name__ == "__main__":
    main()
