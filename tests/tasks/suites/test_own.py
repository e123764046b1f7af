"""The suites that need no files: rows that can be solved from their text, and their scores."""

import re

import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.prompts.settings import TaskSettings
from tasks.suites.registry import find_task, suite_tasks
from tests.oracles.task_checks import check_record

TOKENIZER = tiny_tokenizer()
NAMES = ("own_solve", "own_coreference", "own_chain")


def records(name, length=3000, count=6, seed=0):
    return find_task(name).records(TOKENIZER, TaskSettings(length), length, count, seed)


@pytest.mark.parametrize("name", NAMES)
def test_rows_fill_their_length_and_depend_on_seed_and_index_alone(name):
    made = records(name)
    for record in made:
        check_record(record, TOKENIZER, 3000)
        assert len(record.inputs) > 2700 and record.dataset == name
        assert all(gold in record.prompt for gold in record.ground_truth["gold_documents"])
    assert [r.prompt for r in made] == [r.prompt for r in records(name)]
    assert len({r.prompt for r in made}) == 6
    assert made[0].prompt != records(name, seed=1)[0].prompt
    assert [task.name for task in suite_tasks(["own"])] == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_is_asked_without_recall_and_without_a_thought(name):
    bare = TaskSettings(3000, system="", thinking=False)
    (record,) = find_task(name).records(TOKENIZER, bare, 3000, 1, 0)
    assert record.prompt.startswith("<|im_start|>user\n")
    assert record.prompt.endswith("<|im_start|>assistant")
    assert "recall" not in record.prompt.lower() and "<think>" not in record.prompt
    own = TaskSettings(3000, system="Be brief.")
    (record,) = find_task(name).records(TOKENIZER, own, 3000, 1, 0)
    assert record.prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert record.prompt.endswith("<think>\n") and len(record.inputs) <= 3000


def solved(record):
    """Add up what the text says of the shops that are asked for."""
    goods, asked = re.search(r"How many (\w+) do (.*) have together", record.prompt).groups()
    shops = re.split(r", | and ", asked)
    found = [
        int(number)
        for shop in shops
        for number in re.findall(rf"The shop {shop} has (\d+) {goods} in stock", record.prompt)
    ]
    assert len(found) == len(shops)
    return str(sum(found))


def repeated(record):
    """Return the reply to the request of that number, in the order of the conversation."""
    ordinal, form, topic, mark = re.search(
        r"Repeat the (\w+) (\w+) about (\w+) word for word, in one line that begins with "
        r"Answer: (\w+) and",
        record.prompt,
    ).groups()
    replies = re.findall(rf"User: Write a {form} about {topic}\.\nAssistant: (.*)", record.prompt)
    assert len(replies) == 4
    return f"{mark} {replies[('first', 'second', 'third', 'fourth').index(ordinal)]}"


def followed(record):
    """Follow the chain from its start to the question, and look up the answer."""
    key = re.search(r"Start at ([\w-]{36})", record.prompt)[1]
    steps = 0
    while following := re.search(rf"{key} leads to ([\w-]{{36}})", record.prompt):
        key, steps = following[1], steps + 1
    assert steps == 3
    person = re.search(rf"{key} asks: In which town does (.*) live\?", record.prompt)[1]
    (town,) = re.findall(rf"^{person} lives in (.*)\.$", record.prompt, re.MULTILINE)
    return town


@pytest.mark.parametrize(
    ("name", "solve"),
    [("own_solve", solved), ("own_coreference", repeated), ("own_chain", followed)],
)
def test_the_text_alone_gives_the_answer(name, solve):
    task = find_task(name)
    for record in records(name, count=12):
        answer = solve(record)
        assert record.ground_truth["answers"] == [answer]
        (score,) = task.score(f"So.\n</think>\nAnswer: {answer}", record.ground_truth).values()
        assert score == 1.0
        (score,) = task.score("So.\n</think>\nAnswer: nothing", record.ground_truth).values()
        assert score == 0.0


def test_only_the_chain_tells_who_is_asked_for():
    """The person of the answer is named like all others, and the town is no rarer than others."""
    alone = 0
    for record in records("own_chain", length=12_000, count=40):
        lives = re.findall(r"^(.*) lives in (.*)\.$", record.prompt, re.MULTILINE)
        assert len({person for person, _ in lives}) == len(lives) > 30
        assert all(re.fullmatch(r"[A-Z][\w-]* [A-Z][\w-]*", person) for person, _ in lives)
        towns = [town for _, town in lives]
        assert len(set(towns)) < len(towns)
        alone += towns.count(record.ground_truth["answers"][0]) == 1
    assert 10 <= alone < 40


def test_no_lines_of_a_chain_stand_together():
    """Else the line that stands apart from its chain would be the answer's."""
    following = 0
    for record in records("own_chain", length=12_000, count=10):
        lines = record.prompt.splitlines()
        asked = {
            match[1]: place
            for place, line in enumerate(lines)
            if (match := re.search(r"In which town does (.*) live\?$", line))
        }
        lives = re.findall(r"^(.*) lives in ", record.prompt, re.MULTILINE)
        places = [place for place, line in enumerate(lines) if " lives in " in line]
        steps = [
            place - asked[person]
            for person, place in zip(lives, places, strict=True)
            if person in asked
        ]
        assert len(steps) > 20
        following += steps.count(1)
    # One in a hundred or so does by chance.
    assert following < 20


def test_all_shops_are_named_alike():
    for record in records("own_solve"):
        shops = re.findall(r"^The shop (.*) has \d+ \w+ in stock\.$", record.prompt, re.MULTILINE)
        assert len(shops) > 20
        assert all(re.fullmatch(r"[A-Z][\w-]* [A-Z][\w-]*", shop) for shop in shops)


def test_a_reply_is_scored_by_its_likeness_behind_the_mark():
    truth = {"answers": ["k3 The sea is wide."]}
    score = find_task("own_coreference").score
    assert score("</think>\nAnswer: k3 The sea is wide.", truth)["likeness"] == 1.0
    recalled = "</think>\nAnswer: k3 <|start_recall|>The sea is wide.<|end_recall|>"
    assert score(recalled, truth)["likeness"] == 1.0
    # 12 of 12 characters in front agree with 12 of 16: 2 * 12 / 28.
    assert score("</think>\nAnswer: k3 The sea is w", truth)["likeness"] == pytest.approx(24 / 28)
    assert score("</think>\nAnswer: The sea is wide.", truth)["likeness"] == 0.0
    # As everywhere, what has no label is no answer.
    assert score("</think>\nk3 The sea is wide.", truth)["likeness"] == 0.0


def test_a_sum_counts_with_its_thousands_apart_and_no_other_number():
    score = find_task("own_solve").score
    right = (
        "1,204",
        "1204.",
        "1204 pens",
        "1204. The shops say so.",
        "1204\nDone.",
        r"\boxed{1204}",
    )
    wrong = ("1203", "1204 or 7", "12,04", "1204; 7", "1,2 04")
    for answer, wanted in (*((text, 1.0) for text in right), *((text, 0.0) for text in wrong)):
        assert score(f"</think>\nAnswer: {answer}", {"answers": ["1204"]})["accuracy"] == wanted


def test_a_list_of_towns_names_none():
    score = find_task("own_chain").score
    for answer, wanted in (("Amber Wick. It is so.", 1.0), ("Amber Wick\nDull Bay\nRed Fox", 0.0)):
        assert (
            score(f"</think>\nAnswer: {answer}", {"answers": ["Amber Wick"]})["accuracy"] == wanted
        )
