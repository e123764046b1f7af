"""The files that RULER's tasks read, small, and the prompts that they make of them."""

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.prompts.settings import TaskSettings
from tasks.suites.ruler.prompts import RowSpec
from tasks.suites.ruler.suite import make_prompt

TOKENIZER = tiny_tokenizer()
ESSAY_TASKS = (
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multivalue",
    "niah_multiquery",
)
ESSAYS = (
    'He said "stop." Then it rained for a week. Was it  over?\nNo, not in the year 1.5 was '
    "measured. Rivers rose; people left. 7 boats came back!"
)
SENTENCES = [
    'He said "stop."',
    "Then it rained for a week.",
    "Was it over?",
    "No, not in the year 1.5 was measured.",
    "Rivers rose; people left.",
    "7 boats came back!",
]
CAPITALS = ["Paris", "Rome", "Oslo", "Bern", "Lima", "Cairo", "Quito", "Riga"]


def fact(city):
    return f"{city} is a capital. It lies by a river, on hills, or on a coast."


def squad_file():
    def paragraph(city):
        return {
            "context": fact(city),
            "qas": [
                {
                    "question": f"What is {city}?",
                    "id": city,
                    "is_impossible": False,
                    "answers": [{"text": "a capital"}, {"text": "capital"}, {"text": "a capital"}],
                },
                {"question": "Who?", "id": "x", "is_impossible": True, "answers": []},
            ],
        }

    articles = [
        {"title": "one", "paragraphs": [paragraph(city) for city in CAPITALS[:3]]},
        {"title": "two", "paragraphs": [paragraph(city) for city in CAPITALS[3:]]},
        {"title": "broken"},
    ]
    return {"version": "v2.0", "data": articles}


def hotpot_file():
    rows = []
    for number, city in enumerate(CAPITALS):
        named = [city, CAPITALS[number - 1], CAPITALS[number - 2]]
        rows.append(
            {
                "_id": city,
                "question": f"What do {named[0]} and {named[1]} have in common?",
                "answer": "a river",
                "supporting_facts": [[named[0], 0], [named[1], 1]],
                "context": [[name, [f"{name} is old.", " It has a river."]] for name in named],
            }
        )
    return rows


def row_spec(task, data_dir="", length=1400, index=0, seed=0):
    settings = TaskSettings(target_length=length, data_dir=data_dir)
    return RowSpec(task, TOKENIZER, settings, length, seed, index)


def made(task, data_dir="", **options):
    return make_prompt(row_spec(task, data_dir, **options), None)


def context_of(prompt):
    return prompt.input[slice(*prompt.context)]
