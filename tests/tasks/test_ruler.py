"""RULER: exact templates, counts from the text, right answers, and the length rule."""

import collections
import dataclasses
import json
import logging
import re

import numpy as np
import pytest

from recallm_jax.setup_policy import tiny_tokenizer
from tasks.context import generator
from tasks.errors import TaskInputError
from tasks.essays import read_essays
from tasks.ruler import counting, niah, words
from tasks.ruler.prompts import NOISE, Prompt, Request
from tasks.ruler.suite import DRAFTS, NEW_TOKENS, QA, _text, make_prompt
from tasks.settings import TaskSettings
from tasks.suites import OVERALL, SUITES, find_task, suite_tasks
from tests.oracles.real_data import shared_data
from tests.oracles.task_checks import check_record

TOKENIZER = tiny_tokenizer()
ESSAY_TASKS = (
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multivalue",
    "niah_multiquery",
)
SHARED = shared_data()
real_data = pytest.mark.skipif(SHARED is None, reason="no shared data here")
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


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "haystack_essays.txt").write_text(ESSAYS)
    (folder / "dev-v2.0.json").write_text(json.dumps(squad_file()))
    (folder / "hotpot_dev_distractor_v1.json").write_text(json.dumps(hotpot_file()))
    return str(folder)


def request(task, data_dir="", length=1400, index=0, seed=0):
    settings = TaskSettings(target_length=length, data_dir=data_dir)
    return Request(task, TOKENIZER, settings, length, seed, index)


def made(task, data_dir="", **options):
    return make_prompt(request(task, data_dir, **options), None)


def context_of(prompt):
    return prompt.input[slice(*prompt.context)]


def test_the_suites_have_the_benchmarks_tasks_and_tokens():
    names = [f"niah_single_{n}" for n in (1, 2, 3)] + [f"niah_multikey_{n}" for n in (1, 2, 3)]
    names += ["niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"]
    limits = [128] * 8 + [30, 120, 50, 32, 32]
    found = {task.name: task.max_new_tokens for task in suite_tasks(["ruler"])}
    assert found == {f"ruler_{n}": limit for n, limit in zip(names, limits, strict=True)}
    chat = {task.name: task.max_new_tokens for task in suite_tasks(["ruler_chat"])}
    assert chat == {f"ruler_{n}_chat": None for n in names}
    assert find_task("ruler_vt").name == "ruler_vt" and find_task("retrieval") is None
    with pytest.raises(TaskInputError, match="suite 'rular' is unknown; use any of ruler"):
        suite_tasks(["rular"])
    assert set(OVERALL) <= set(SUITES)


@pytest.mark.parametrize("task", ["niah_single_1", "niah_multikey_2", "niah_multikey_3"])
def test_one_needle_is_asked_for_in_the_singular(task, data_dir):
    kind = "uuid" if task == "niah_multikey_3" else "number"
    prompt = made(task, data_dir)
    (value,) = prompt.outputs
    context = context_of(prompt)
    (key,) = re.findall(rf"One of the special magic {kind}s for (\S+) is: {value}\.", context)
    assert prompt.input == (
        f"A special magic {kind} is hidden within the following text. Make sure to memorize it. "
        f"I will quiz you about the {kind} afterwards.\n{context}\n"
        f"What is the special magic {kind} for {key} mentioned in the provided text?"
    )
    assert prompt.prefix == (
        f" The special magic {kind} for {key} mentioned in the provided text is"
    )
    assert context.count(key) == 1


def test_several_needles_are_asked_for_in_the_plural(data_dir):
    many = made("niah_multivalue", data_dir)
    pairs = re.findall(r"special magic numbers for (\S+) is: (\d+)\.", many.input)
    assert len(pairs) == 4 and len({key for key, _ in pairs}) == 1
    assert sorted(many.outputs) == sorted(value for _, value in pairs)
    key = pairs[0][0]
    assert many.input.startswith(
        "Some special magic numbers are hidden within the following text. Make sure to memorize "
        "it. I will quiz you about the numbers afterwards.\n"
    )
    assert many.input.endswith(
        f"\nWhat are all the special magic numbers for {key} mentioned in the provided text?"
    )
    assert many.prefix == (
        f" The special magic numbers for {key} mentioned in the provided text are"
    )


def test_four_keys_are_asked_for_in_the_order_of_the_references(data_dir):
    prompt = made("niah_multiquery", data_dir)
    values = dict(re.findall(r"special magic numbers for (\S+) is: (\d+)\.", context_of(prompt)))
    assert len(values) == len(set(values.values())) == 4
    question = re.search(r"numbers for (\S+), (\S+), (\S+), and (\S+) mentioned", prompt.prefix)
    assert [values[key] for key in question.groups()] == list(prompt.outputs)
    one = made("niah_multikey_1", data_dir)
    assert len(re.findall("One of the special magic numbers for", one.input)) == 4
    assert len(one.outputs) == 1


@pytest.mark.parametrize("task", [*ESSAY_TASKS, "niah_single_1", "niah_multikey_2"])
def test_gold_ranges_are_the_needles_in_the_order_of_the_references(task, data_dir):
    for index in range(5):
        prompt = made(task, data_dir, index=index)
        gold = [prompt.input[low:high] for low, high in prompt.gold]
        for needle, value in zip(gold, prompt.outputs, strict=True):
            assert re.fullmatch(rf"One of the special magic \w+s for \S+ is: {value}\.", needle)


def test_keys_and_values_have_their_kinds(data_dir):
    uuid = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    context = context_of(made("niah_multikey_3", length=3000))
    lines = context.split("\n")
    assert len(lines) > 5
    for line in lines:
        assert re.fullmatch(rf"One of the special magic uuids for {uuid} is: {uuid}\.", line)
    lines = context_of(made("niah_multikey_2")).split("\n")
    keys = [re.fullmatch(r".* for ([a-z]+-[a-z]+) is: [1-9]\d{6}\.", line)[1] for line in lines]
    assert len(set(keys)) == len(keys) > 5
    assert re.fullmatch(uuid, made("niah_single_3", data_dir).outputs[0])


def test_noise_is_one_line_again_and_again():
    prompt = made("niah_single_1")
    lines = context_of(prompt).split("\n")
    assert collections.Counter(lines)[NOISE] == len(lines) - 1 > 5


def test_essays_are_split_between_sentences_and_begin_again(data_dir):
    assert list(niah.essays(data_dir).sentences) == SENTENCES
    words_of_all = " ".join(SENTENCES).split()
    for size in (0, 1, 5, len(words_of_all), 2 * len(words_of_all) + 4):
        rng = generator("essays", 0, size)
        text, ranges = niah.in_essays(niah.essays(data_dir), size, ["NEEDLE A.", "NEEDLE B."], rng)
        assert [text[low:high] for low, high in ranges] == ["NEEDLE A.", "NEEDLE B."]
        hay = re.sub(r"NEEDLE \w\.", "", text).split()
        assert hay == [words_of_all[i % len(words_of_all)] for i in range(size)]
        assert "  " not in text


def test_needles_stand_at_all_depths(data_dir):
    places = []
    for index in range(60):
        prompt = made("niah_single_2", data_dir, index=index)
        (low, _), (start, end) = prompt.gold[0], prompt.context
        places.append((low - start) / (end - start))
    assert np.histogram(places, 3, (0, 1))[0].min() >= 10


def vt_text(lines, value):
    context = "\n".join(lines)
    return (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
        f"{context}\nQuestion: Find all variables that are assigned the value {value} in the text "
        "above."
    )


def vt_prefix(value):
    return (
        " Answer: According to the chain(s) of variable assignment in the text above, 5 variables "
        f"are assigned the value {value}, they are: "
    )


@pytest.mark.parametrize("index", range(3))
def test_a_chain_is_five_assignments_behind_a_worked_example(index):
    prompt = made("vt", index=index, length=2000)
    lines = context_of(prompt).split("\n")
    names = prompt.outputs
    value = re.search(rf"VAR {names[0]} = (\d{{5}})\n", prompt.input)[1]
    chain = [f"VAR {names[0]} = {value}"]
    chain += [f"VAR {names[i + 1]} = VAR {names[i]} " for i in range(4)]
    assert [line for line in lines if line != NOISE] == chain
    assert all(re.fullmatch("[A-Z]{5}", name) for name in names) and len(set(names)) == 5
    asked = vt_text(lines, value)
    assert prompt.input.endswith(asked) and prompt.prefix == vt_prefix(value)
    assert [prompt.input[a:b] for a, b in prompt.gold] == [line.rstrip() for line in chain]

    example = prompt.input.removesuffix(asked)
    found = re.search(r"they are:  ((?:[A-Z]{3} ?){5})\n\n$", example)
    shown = found[1].split(" ")
    example_value = re.search(rf"VAR {shown[0]} = (\d{{5}})\n", example)[1]
    assert example_value != value
    example_lines = example.partition("text.\n\n")[2].partition("\nQuestion")[0].split("\n")
    assert example == (
        f"{vt_text(example_lines, example_value)}{vt_prefix(example_value)} {' '.join(shown)}\n\n"
    )
    assert len(TOKENIZER.encode(example)) <= 500 + 100  # no noise is left to leave out


CWE_TEXT = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{}\nQuestion: What are the 10 most common words in "
    "the above list?"
)
CWE_PREFIX = " Answer: The top 10 words that appear most often in the list are:"


@pytest.mark.parametrize(
    ("length", "common", "other", "example_counts"),
    [(2048, 6, 1, (3, 1, 20)), (6000, 30, 3, (10, 3, 40))],
)
def test_common_words_come_more_often_as_the_length_says(length, common, other, example_counts):
    prompt = made("cwe", length=length)
    context = context_of(prompt)
    example = prompt.input.removesuffix(CWE_TEXT.format(context))
    assert prompt.prefix == CWE_PREFIX
    listed = [item.split(". ") for item in re.split(r" (?=\d+\. )", context)]
    assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
    counts = collections.Counter(word for _, word in listed)
    assert {word for word, count in counts.items() if count == common} == set(prompt.outputs)
    assert len(prompt.outputs) == 10
    assert set(counts.values()) == {common, other}
    others = set(counts) - set(prompt.outputs)
    assert not any(word in longer for word in prompt.outputs for longer in others)

    found = re.fullmatch(
        re.escape(CWE_TEXT).replace(r"\{\}", "(.*)") + f"{CWE_PREFIX}(.*)\n", example
    )
    times, rare, size = example_counts
    shown = collections.Counter(re.sub(r"\d+\. ", "", found[1]).split(" "))
    assert collections.Counter(shown.values()) == {times: 10, rare: size - 10}
    answer = re.findall(r"(\d+)\. (\S+)", found[2])
    assert found[2] == " ".join(f"{i}. {word}" for i, word in answer)
    assert {word for _, word in answer} == {w for w, count in shown.items() if count == times}


def test_there_are_words_enough_for_the_longest_list():
    assert len(words.plain()) > 700
    assert len(words.compounds()) > 40_000
    assert all(re.fullmatch("[a-z]+", word) for word in words.plain())


@pytest.mark.parametrize("length", [1000, 4096])
def test_coded_words_follow_the_zeta_law(length):
    prompt = made("fwe", length=length)
    context = context_of(prompt)
    assert prompt.input == (
        "Read the following coded text and track the frequency of each coded word. Find the three "
        f"most frequently appeared coded words. {context}\nQuestion: Do not provide any "
        "explanation. Please ignore the dots '....'. What are the three most frequently appeared "
        "words in the above coded text?"
    )
    assert prompt.prefix == (
        " Answer: According to the coded text above, the three most frequently appeared words are:"
    )
    counts = collections.Counter(context.split(" "))
    ranked = counts.most_common()
    assert ranked[0][0] == "..."
    assert [word for word, _ in ranked[1:4]] == list(prompt.outputs)
    assert ranked[3][1] > ranked[4][1]
    assert all(re.fullmatch("[a-z]{6}", word) for word in counts if word != "...")
    # The dots come n / zeta(2) times, the words of rank k a k-th of it squared.
    for rank, (_, count) in enumerate(ranked[:6], 1):
        assert abs(count - ranked[0][1] / rank**2) <= 1
    assert len(counts) <= (length - 50) // 50


def test_zeta_counts_by_hand():
    # 100 / 1.6449 = 60.79; a quarter 15.2; a ninth 6.75; a sixteenth 3.8.
    assert counting.zeta_counts(100, 4).tolist() == [60, 15, 6, 3]


def test_a_shared_third_place_is_refused():
    text = "... aa aa bb bb cc dd"
    prompt = Prompt(text, "", (0, len(text)), (), ("aa", "bb", "cc"))
    with pytest.raises(TaskInputError, match="length 99 is too short for ruler_fwe"):
        counting.check_frequent_words(prompt, 99)
    counting.check_frequent_words(dataclasses.replace(prompt, outputs=("aa", "cc", "bb")), 99)


@pytest.mark.parametrize("task", QA)
def test_questions_stand_behind_numbered_documents(task, data_dir):
    seen = set()
    for index in range(8):
        prompt = made(task, data_dir, index=index, length=700)
        context, query = context_of(prompt), prompt.input.rpartition("Question: ")[2]
        assert prompt.input == (
            "Answer the question based on the given documents. Only give me the answer and do not "
            "output any other words.\n\nThe following are given documents.\n\n"
            f"{context}\n\nAnswer the question based on the given documents. Only give me the "
            f"answer and do not output any other words.\n\nQuestion: {query}"
        )
        assert prompt.prefix == " Answer:"
        documents = re.split(r"(?:^|\n\n)Document \d+:\n", context)[1:]
        assert context == "\n\n".join(f"Document {i}:\n{d}" for i, d in enumerate(documents, 1))
        assert len(set(documents)) == len(documents) > 1
        gold = [prompt.input[low:high] for low, high in prompt.gold]
        city = re.match(r"What (?:is|do) (\w+)", query)[1]
        if task == "qa_1":
            assert prompt.outputs == ("a capital", "capital", "a capital")
            assert gold == [fact(city)]
        else:
            before = CAPITALS[CAPITALS.index(city) - 1]
            assert prompt.outputs == ("a river",)
            assert gold == [f"{name}\n{name} is old. It has a river." for name in (city, before)]
        seen.add(query)
    assert len(seen) == 8


def test_the_gold_document_stands_anywhere(data_dir):
    places = collections.Counter()
    for index in range(60):
        prompt = made("qa_1", data_dir, index=index, length=700)
        before = prompt.input[: prompt.gold[0][0]]
        places[before.count("Document ") - 1] += 1
    assert len(places) >= 4 and max(places.values()) < 30


def test_distractors_come_from_the_same_article_first(data_dir):
    asked = request("qa_1", data_dir)
    sized = DRAFTS["qa_1"](asked)
    article = next(
        names
        for names in (CAPITALS[:3], CAPITALS[3:])
        if any(n in sized.prompt(0).input for n in names)
    )
    near = sized.prompt(len(article) - 1)
    assert all(fact(name) in near.input for name in article)
    assert sized.most == len(CAPITALS) - 1


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("task", DRAFTS)
def test_a_row_is_the_longest_that_fits_with_its_response(task, system, data_dir):
    asked = request(task, data_dir, length=1500)

    def tokens(prompt):
        return len(TOKENIZER.encode(_text(TOKENIZER, prompt, system)))

    room = 1500 - NEW_TOKENS[task]
    row = make_prompt(asked, system)
    assert tokens(row) <= room
    sized = DRAFTS[task](asked)
    low, high = 0, sized.most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tokens(sized.prompt(middle)) <= room else (low, middle - 1)
    assert row == sized.prompt(low)
    assert low == sized.most or tokens(sized.prompt(low + 1)) > room


def test_rows_are_a_function_of_seed_and_index():
    assert made("vt", index=1) == made("vt", index=1)
    assert len({made("vt", index=i, seed=s).input for i in (0, 1) for s in (0, 1)}) == 4


@pytest.mark.parametrize("name", ["ruler_niah_multiquery", "ruler_vt", "ruler_cwe", "ruler_qa_2"])
@pytest.mark.parametrize("form", ["", "_chat"])
def test_records_hold_exact_ranges_and_only_the_context_is_copyable(name, form, data_dir):
    settings = TaskSettings(target_length=1, data_dir=data_dir)
    task = find_task(name + form)
    first, second = task.records(TOKENIZER, settings, 1536, 2, 0)
    check_record(first, TOKENIZER, 1536)
    assert first.dataset == name + form
    assert first.example_id == f"{name}{form}_1536/0"
    assert first.prompt != second.prompt
    row = made(name.removeprefix("ruler_"), data_dir, length=1536) if not form else None
    if row:
        assert first.prompt == row.input + row.prefix
    else:
        assert first.prompt.startswith("<|im_start|>system") and "Answer:" in first.prompt
        assert first.prompt.endswith("assistant<think>\n")
    copied = "".join(
        first.prompt[low:high]
        for (low, high), flag in zip(first.offsets, first.copyable, strict=True)
        if flag
    )
    for phrase in ("Question", "memorize", "Memorize", "given documents", "quiz", "they are"):
        assert phrase not in copied
    if name == "ruler_vt":
        # The worked example's names are no part of what is asked about.
        assert not re.search(r"VAR [A-Z]{3} ", copied)


def test_missing_files_are_one_clear_error(tmp_path):
    for task in ESSAY_TASKS:
        with pytest.raises(TaskInputError, match=r"set config.data.dir .* haystack_essays"):
            made(task)
        with pytest.raises(TaskInputError, match=r"has no PaulGrahamEssays.json or haystack_ess"):
            made(task, str(tmp_path))
    for task, name in (("qa_1", "dev-v2.0.json"), ("qa_2", "hotpot")):
        with pytest.raises(TaskInputError, match=rf"has no {name}.*"):
            made(task, str(tmp_path))


def test_essays_may_be_the_json_of_the_benchmarks_script(tmp_path):
    path = tmp_path / "PaulGrahamEssays.json"
    path.write_text(json.dumps({"text": ESSAYS}))
    assert list(niah.essays(str(tmp_path)).sentences) == SENTENCES
    for cached in (niah.essays, read_essays):
        cached.cache_clear()
    path.write_text("[]")
    with pytest.raises(TaskInputError, match="can't be read as essays"):
        niah.essays(str(tmp_path))


@pytest.mark.parametrize("task", DRAFTS)
def test_a_length_too_short_is_refused(task, data_dir):
    with pytest.raises(TaskInputError, match=rf"ruler_{task} at length 150: .*too short"):
        made(task, data_dir, length=150)


def test_a_collection_that_is_too_small_is_said_so(data_dir, caplog):
    with caplog.at_level(logging.WARNING):
        made("qa_1", data_dir, length=7777)
    assert "ruler_qa_1: all documents of the data set together are shorter than 7777" in caplog.text


@real_data
@pytest.mark.parametrize("task", [*ESSAY_TASKS[:2], *QA])
def test_real_files_make_rows(task):
    prompt = made(task, str(SHARED), length=4096)
    tokens = len(TOKENIZER.encode(prompt.input + prompt.prefix)) + NEW_TOKENS[task]
    assert 3000 < tokens <= 4096
    if task not in QA:
        assert prompt.outputs[0] in context_of(prompt)
    if task == "qa_1":
        assert any(output in prompt.input[slice(*prompt.gold[0])] for output in prompt.outputs)
