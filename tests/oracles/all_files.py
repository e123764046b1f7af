"""Small files of every data set that is not synthetic, in their published layouts."""

import json
import pathlib

from tests.oracles import passage_files

INTENTS = ("set_alarm", "play_music", "ask_weather")


def write_all(folder: pathlib.Path) -> None:
    passage_files.write_all(folder)
    for part, count in (("train", 8), ("test", 3)):
        rows = [
            f"{part} request {n} to {intent.replace('_', ' ')},{intent}"
            for intent in INTENTS
            for n in range(count)
        ]
        text = "\n".join(["text,category", *rows])
        (folder / f"banking77_{part}.csv").write_text(text, encoding="utf-8")
    passage_files.write_json(
        folder / "en-US.jsonl",
        [
            {"id": f"{n}", "partition": part, "intent": intent, "utt": f"{part} {n} {intent[4:]}"}
            for part, count in (("train", 8), ("dev", 3), ("test", 3))
            for intent in INTENTS
            for n in range(count)
        ],
    )
    for part, numbers in (("train", range(8)), ("dev", range(8, 12))):
        articles = [_article(number) for number in numbers]
        lines = "".join(f"{json.dumps(article)}\n" for article in articles)
        (folder / f"QuALITY.v1.0.1.htmlstripped.{part}").write_text(lines, encoding="utf-8")
    sums = [
        {
            "question": f"What is {n} plus {n}?",
            "answer": f"It is <<{n}+{n}={2 * n}>>.\n#### {2 * n}",
        }
        for n in range(3, 30)
    ]
    passage_files.write_json(folder / "gsm8k_train.jsonl", sums)
    for part, numbers in (("train", range(2, 12)), ("validation", range(12, 16))):
        rows = [_contract(number) for number in numbers] + [_on_passages(numbers[0])]
        passage_files.write_json(folder / f"own_questions_{part}.jsonl", rows)


def _article(number: int) -> dict:
    question = {
        "question": f"Which year is article {number} about?",
        "options": [f"{year + number}" for year in (1900, 1920, 1940, 1960)],
        "gold_label": number % 4 + 1,
        "question_unique_id": f"q{number}",
    }
    text = f"Article {number} begins. {'So it went on. ' * (10 + number)} It ended."
    return {
        "article_id": f"{number}",
        "set_unique_id": f"{number}_X",
        "title": "A title",
        "article": text,
        "questions": [question],
    }


def _contract(number: int) -> dict:
    return {
        "question": f"How long is the notice of contract {number}?",
        "answers": [f"{number} months", f"{number}"],
        "document": f"Contract {number}.\nThe notice is {number} months.\nIt is signed.",
    }


def _on_passages(number: int) -> dict:
    near = [passage_files.passage(filler) for filler in passage_files.FILLERS[number : number + 4]]
    return {
        "question": f"Where was {passage_files.MAYORS[number % 9]} Holt born?",
        "answer": f"Port{number % 9} Harbour",
        "passages": [*near, passage_files.passage(passage_files.mayor(number % 9))],
    }
