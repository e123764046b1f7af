"""Multi- and single-hop questions: gold passages whole, distractors without the answer."""

import dataclasses
import itertools
import logging
import re

import pytest
from hypothesis import given
from hypothesis import settings as limits

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets import citation_qa, long_doc_qa, own_questions, questions
from tasks.datasets.multi_hop_qa import SOURCES as MULTI_HOP
from tasks.datasets.multi_hop_qa import parse_context, parse_musique
from tasks.datasets.questions import Question
from tasks.datasets.registry import find
from tasks.datasets.single_hop_qa import SOURCES as SINGLE_HOP
from tasks.datasets.single_hop_qa import answered, parse_question, read_questions
from tasks.errors import TaskInputError, UnfitRowError
from tasks.generate import record
from tasks.prompts.context import generator
from tasks.prompts.fitting import fit
from tasks.prompts.settings import TaskSettings
from tasks.scoring.answers import normalise
from tasks.sources.corpus import Corpus
from tasks.sources.passages import holds, needles, read_passage
from tasks.sources.table import read_table
from tests.oracles import passage_files as files
from tests.oracles.real_data import needs_shared, shared_data
from tests.oracles.task_checks import check_record
from tests.oracles.wild_json import spoilt

TOKENIZER = tiny_tokenizer()
DATASETS = (*MULTI_HOP, *SINGLE_HOP)
SHARED = shared_data()


def settings(data_dir, length=900, **options):
    return TaskSettings(length, data_dir=str(data_dir), **options)


def passages_of(user: str, example) -> list[str]:
    """Return the passages as the text shows them: between blank lines, inside the documents."""
    ((low, high),) = example.documents
    return user[low:high].split("\n\n")


@pytest.mark.parametrize("dataset", DATASETS)
def test_all_gold_passages_stand_once_in_every_context(dataset, data_dir):
    for index in range(3):
        draft = find(dataset).draft(settings(data_dir), "train", 0, index, 0)
        for number in (0, 1, draft.most // 2, draft.most):
            example = draft.example(number)
            shown = passages_of(example.user, example)
            gold = [example.user[low:high] for low, high in example.gold]
            assert len(shown) == number + len(gold)
            assert all(shown.count(item) == 1 for item in gold)
            bodies = [re.sub(r"^(\[\d+\] |Passage \d+: )", "", item) for item in shown]
            assert len(set(bodies)) == len(bodies)


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_context_grows_by_one_passage_at_a_time(dataset, data_dir):
    draft = find(dataset).draft(settings(data_dir), "train", 0, 1, 0)

    def bodies(number):
        example = draft.example(number)
        shown = passages_of(example.user, example)
        return [re.sub(r"^(\[\d+\] |Passage \d+: )", "", item) for item in shown]

    places = []
    for number in range(draft.most):
        before, after = bodies(number), bodies(number + 1)
        (new,) = set(after) - set(before)
        assert set(before) < set(after)
        places.append(after.index(new) / len(after))
    # The nearest are taken first, but their places are drawn: a place does not tell how near it is.
    assert min(places) < 0.4 and max(places) > 0.6
    assert places != sorted(places)


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_distractor_holds_an_answer(dataset, data_dir):
    for index in range(6):
        draft = find(dataset).draft(settings(data_dir), "train", 0, index, 0)
        example = draft.example(draft.most)
        gold = {example.user[low:high] for low, high in example.gold}
        assert any(normalise(example.truth["answers"][0]) in normalise(item) for item in gold)
        others = [item for item in passages_of(example.user, example) if item not in gold]
        for item, answer in itertools.product(others, example.truth["answers"]):
            assert f" {normalise(answer)} " not in f" {normalise(item)} "


def test_passages_are_numbered_by_their_place(data_dir):
    seen = set()
    for index in range(30):
        draft = find("hotpotqa").draft(settings(data_dir), "train", 0, index, 0)
        example = draft.example(5)
        shown = passages_of(example.user, example)
        for start in ("[", "Passage "):
            if all(item.startswith(start) for item in shown):
                numbers = [int(re.search(r"\d+", item)[0]) for item in shown]
                assert numbers == list(range(1, len(shown) + 1))
                seen.add(start)
    assert seen == {"[", "Passage "}


def test_gold_passages_stand_anywhere(data_dir):
    first = []
    for index in range(200):
        draft = find("nq").draft(settings(data_dir), "train", 0, index, 0)
        example = draft.example(9)
        gold = example.user[slice(*example.gold[0])]
        first.append(passages_of(example.user, example).index(gold))
    # With nine fillers, a uniform depth gives each of the places 0 to 8 a ninth.
    counts = [first.count(place) for place in range(10)]
    assert counts[9] == 0
    assert all(5 < count < 45 for count in counts[:9])


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_demonstration_recalls_the_support_of_the_answer_and_gives_it(dataset, data_dir):
    for index in range(3):
        example = find(dataset).draft(settings(data_dir), "train", 0, index, 0).example(3)
        shown = example.demonstrate(generator("words", 0, index))
        recalled = [example.user[p[0] : p[1]] for p in shown.thought if not isinstance(p, str)]
        answer = example.truth["answers"][0]
        assert shown.answer == answer
        assert answer in recalled[-1] and "was born in" in recalled[-1]
        if dataset in MULTI_HOP:
            assert len(recalled) == 2
            assert "Its mayor is" in recalled[0]
        for text, (low, high) in zip(recalled, example.gold, strict=True):
            assert text in example.user[low:high]


def test_musique_is_recalled_in_the_order_of_its_steps():
    row = parse_musique(files.musique(0))
    assert [item.passage.title for item in row.evidence] == ["Ardel", "Nadir Holt"]
    assert row.answers == ("Port0 Harbour", "Harbour of Port0")
    first = row.evidence[0]
    assert first.passage.text[slice(*first.support)] == "Its mayor is Nadir Holt."


def test_the_other_title_of_a_comparison_is_a_wrong_candidate():
    row = parse_context(files.hotpot(0))
    first, second = (item.passage.title for item in row.evidence)

    def rivals(text, answer):
        return questions.rivals(dataclasses.replace(row, text=text, answers=(answer,)))

    assert rivals(f"Which is older, {first} or {second}?", second) == [first]
    assert rivals(f"Which is older, {first} or {second}?", "yes") == []
    # Not a choice, or not a title of the question.
    assert rivals(f"Who was born in {first}?", second) == []
    assert rivals("Which is older, this or that?", second) == []


def test_supporting_facts_choose_the_gold_paragraphs_and_sentences():
    row = parse_context(files.hotpot(2))
    assert {item.passage.title for item in row.evidence} == {"Caskin", "Pavlo Holt"}
    assert len(row.others) == 9
    supports = {i.passage.title: i.passage.text[slice(*i.support)] for i in row.evidence}
    assert supports["Caskin"] == "Its mayor is Pavlo Holt."
    assert supports["Pavlo Holt"] == "Pavlo Holt was born in Port2 Harbour."


def test_a_row_whose_gold_passages_are_too_long_gives_way_to_another(tmp_path, data_dir):
    rows = [files.hotpot(i) for i in range(4)]
    for row in rows[:2]:
        row["context"][3][1][2] = " It rains." * 200
    files.write_json(tmp_path / "hotpot_train_v1.1.json", rows)
    files.write_json(tmp_path / "hotpot_dev_distractor_v1.json", [files.hotpot(7)])
    for index in range(6):
        example = record("hotpotqa", TOKENIZER, settings(tmp_path), "train", 0, index)
        assert "It rains. It rains." not in example.prompt
        assert example.ground_truth["answers"][0] in ("Port2 Harbour", "Port3 Harbour")
    with pytest.raises(TaskInputError, match=r"hotpotqa: no row of 32 could be used; .*takes"):
        record("hotpotqa", TOKENIZER, settings(tmp_path, 150), "train", 0, 0)


def test_a_judgement_bars_no_distractor(tmp_path):
    rows = [{**files.hotpot(i), "answer": "no"} for i in range(4)]
    rows[0]["context"][0] = ["No Lake", ["There is no lake.", " Yes, none."]]
    files.write_json(tmp_path / "hotpot_train_v1.1.json", rows)
    files.write_json(tmp_path / "hotpot_dev_distractor_v1.json", [files.hotpot(7)])
    draft = find("hotpotqa").draft(settings(tmp_path), "train", 0, 0, 0)
    assert "There is no lake." in draft.example(draft.most).user
    assert draft.example(0).truth["answers"] == ["no"]


def test_a_given_corpus_takes_the_place_of_the_pool(tmp_path, data_dir):
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"title": "Z", "text": f"Zebra number {n} was born in a zoo."} for n in range(40)]
    files.write_json(corpus, [*rows, {"title": "A", "text": "Many say Port0 Harbour is nice."}])
    wanted = settings(data_dir, 3000, corpus=str(corpus))
    draft = find("nq").draft(wanted, "train", 0, 0, 0)
    text = draft.example(draft.most).user
    assert text.count("Zebra number") == 40
    assert "Many say" not in text or "Port0 Harbour" not in draft.example(0).truth["answers"]


def open_folder(folder):
    """Write questions without passages, and multi-hop files of which the pool is made."""
    files.write_multi_hop(folder)
    rows = [files.open_question(i) for i in range(9)]
    rows.append({"question": "who is nobody holt", "answer": ["Absent Place"]})
    files.write_json(folder / "NQ-open.train.jsonl", rows)
    held_out = {"question": "who was never asked", "answer": ["Port1 Harbour"]}
    files.write_json(folder / "NQ-open.dev.jsonl", [held_out])
    return folder


def test_questions_without_passages_take_one_that_supports_the_answer(tmp_path, caplog):
    wanted = settings(open_folder(tmp_path))
    with caplog.at_level(logging.WARNING):
        draft = find("nq").draft(wanted, "train", 0, 0, 0)
    assert (
        "nq train: 1 of 10 rows left out: no passage of the corpus supports an answer"
        in caplog.text
    )
    example = draft.example(2)
    (low, high), answer = example.gold[0], example.truth["answers"][0]
    assert f"was born in {answer}" in example.user[low:high]
    check_record(record("nq", TOKENIZER, wanted, "train", 0, 0), TOKENIZER, 900)


def test_a_corpus_that_answers_nothing_is_one_clear_error(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    files.write_json(corpus, [{"title": "Z", "text": "Zebras."}])
    wanted = settings(open_folder(tmp_path), corpus=str(corpus))
    with pytest.raises(TaskInputError, match=r"no passage of the corpus \(1\) answers any of the "):
        find("nq").draft(wanted, "train", 0, 0, 0)


def test_squad_stands_in_for_nq_if_there_is_no_other_file(tmp_path):
    files.write_json(tmp_path / "dev-v2.0.json", files.squad())
    table = read_table(SINGLE_HOP["nq"], str(tmp_path), "train")
    assert table.skipped == {"not answerable": 9}
    assert all(row.evidence[0].passage.title.endswith(" Holt") for row in table.rows)
    example = find("nq").draft(settings(tmp_path), "train", 0, 0, 0).example(3)
    assert example.truth["answers"][0] in example.user[slice(*example.gold[0])]
    files.write_json(tmp_path / "other" / "dev-v2.0.json", files.squad())
    files.write_json(tmp_path / "other" / "biencoder-nq-dev.json", [files.dpr(i) for i in range(9)])
    rows = read_table(SINGLE_HOP["nq"], str(tmp_path / "other"), "train").rows
    assert all(row.text.startswith("where was") for row in rows)


def test_questions_on_one_paragraph_stay_on_one_side(tmp_path):
    articles = files.squad()
    for article in articles["data"]:
        (first, _) = article["paragraphs"][0]["qas"]
        more = [{**first, "question": f"{first['question']} ({n})"} for n in range(10)]
        article["paragraphs"][0]["qas"] += more
    files.write_json(tmp_path / "dev-v2.0.json", articles)
    keys = {"train": set(), "validation": set()}
    for split, found in keys.items():
        try:
            rows = read_table(SINGLE_HOP["nq"], str(tmp_path), split).rows
        except TaskInputError:  # Nine paragraphs may all fall to one side.
            continue
        found.update(row.evidence[0].passage.key for row in rows)
    assert not keys["train"] & keys["validation"] and sum(map(len, keys.values())) == 9


def test_dprs_passages_and_answers_are_read():
    row = parse_question(files.dpr(1))
    assert row.answers == ("Port1 Harbour", "Harbour 1")
    assert [item.passage.title for item in row.evidence] == ["Oskel Holt"]
    assert [p.title for p in row.others] == ["Ferry 1", "Brimo", files.FILLERS[2][0]]
    # The first positive that holds an answer is gold, even if others come before it.
    mixed = {
        **files.dpr(1),
        "positive_ctxs": [files.passage(files.town(1)), files.passage(files.mayor(1))],
    }
    assert parse_question(mixed).evidence == row.evidence
    assert parse_question({**files.dpr(1), "positive_ctxs": []}).evidence == ()


def test_of_dprs_passages_the_one_that_speaks_of_what_is_asked_is_gold():
    texts = {"Wheat": "Wheat was dear in 1990.", "The Mill": "The mill was built in 1990."}
    row = {
        "question": "When was the mill built?",
        "answers": ["1990"],
        "positive_ctxs": [{"title": title, "text": text} for title, text in texts.items()],
        "hard_negative_ctxs": [],
    }
    (gold,) = parse_question(row).evidence
    assert gold.passage.title == "The Mill"
    # The year alone is no evidence.
    assert parse_question(row | {"positive_ctxs": row["positive_ctxs"][:1]}).evidence == ()


def _recited(row: Question) -> list[str]:
    """Return the texts that a demonstration recalls; none if there is no demonstration."""
    draft = questions.question_draft(
        "hotpotqa", row, Corpus(row.passages), TaskSettings(4096), 0, len(row.text)
    )
    example = draft.example(0)
    if example.demonstrate is None:
        return []
    thought = example.demonstrate(generator("words", 0, 0)).thought
    return [example.user[slice(*part)] for part in thought if not isinstance(part, str)]


def test_a_demonstration_reaches_to_the_answer_beside_the_named_sentence_or_in_the_title():
    """As where the number of a supporting fact is off by one."""
    text = "The mill is red and wide and stands by the river. Ines Roth built it. " + "More. " * 40
    passage = read_passage("Ardel", text)
    evidence = (questions.Evidence(passage, (0, 49)),)
    (reached,) = _recited(Question("1", "Who built it?", ("Ines Roth",), evidence))
    assert reached.startswith(f"{text[:49]} Ines Roth built it.")
    (whole,) = _recited(Question("2", "Which town?", ("Ardel",), evidence))
    assert "Ardel" in whole and whole.endswith("More.")
    assert _recited(Question("3", "Is it red?", ("yes",), evidence)) == [text[:49]]
    assert _recited(Question("4", "Who?", ("Nobody",), evidence)) == []


@needs_shared
@pytest.mark.parametrize("dataset", DATASETS)
def test_each_demonstration_of_the_shared_data_recites_its_answer(dataset):
    asked = left_out = 0
    for split in ("train", "validation"):
        if dataset in MULTI_HOP:
            rows = read_table(MULTI_HOP[dataset], str(SHARED), split).rows
        else:
            try:
                rows = answered(dataset, TaskSettings(0, data_dir=str(SHARED)), split)
            except TaskInputError:
                continue
        for row in rows:
            if not needles(row.answers):
                continue
            recited, asked = _recited(row), asked + 1
            left_out += not recited
            held = any(
                holds(read_passage("", text), needles([answer]))
                for text in recited
                for answer in row.answers
            )
            assert held or not recited, row
    assert asked and left_out <= asked / 100


def test_rows_as_tfds_has_them_are_read():
    trivia = {"question": "Q?", "answer": {"value": "Rome", "aliases": ["Roma", "Rome"]}}
    assert parse_question(trivia).answers == ("Rome", "Roma")
    squad = {
        "question": "Where?",
        "title": "Rome",
        "context": "It is in Rome.",
        "answers": {"text": ["Rome", "in Rome"], "answer_start": [9, 6]},
        "is_impossible": False,
    }
    assert parse_question(squad).evidence[0].passage == read_passage("Rome", "It is in Rome.")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"supporting_facts": []}, "no supporting_facts"),
        ({"supporting_facts": [["Ardel"]]}, "malformed supporting_facts"),
        ({"supporting_facts": [["Nowhere", 0]]}, "a supporting fact without its paragraph"),
        ({"context": []}, "no context"),
        ({"context": [["Ardel", "text"]]}, "malformed paragraph"),
        ({"context": [["Ardel", [" "]], files.mayor(0)]}, "no passage"),
        ({"answer": "Port8 Harbour"}, "an answer that is in no gold passage"),
        ({"answer": "the"}, "no answer"),
        ({"answer": None}, "no answer"),
        ({"question": "x" * 3000}, "question is absurdly long"),
        ({"question": "a <think> b"}, "question holds a control token"),
        ({"_id": ""}, "no _id"),
    ],
)
def test_a_malformed_multi_hop_row_has_a_reason(change, reason):
    with pytest.raises(UnfitRowError, match=reason):
        parse_context({**files.hotpot(0), **change})


def test_malformed_distractors_are_left_out_and_gold_ones_are_not():
    row = files.hotpot(0)
    row["context"] += [["Odd", "no list"], ["Blank", [""]], 7, []]
    assert len(parse_context(row).others) == 9
    row = files.musique(0)
    row["paragraphs"] += [{"idx": 70, "title": "t", "paragraph_text": ""}, 5]
    assert len(parse_musique(row).others) == 11
    row["paragraphs"][1]["paragraph_text"] = " "
    with pytest.raises(UnfitRowError, match="no passage"):
        parse_musique(row)
    with pytest.raises(UnfitRowError, match="not answerable"):
        parse_musique({**files.musique(0), "answerable": False})


def test_broken_rows_and_duplicates_are_counted(tmp_path):
    rows = [files.hotpot(0), files.hotpot(0), {"_id": "x"}, 5, files.hotpot(1)]
    files.write_json(tmp_path / "hotpot_train_v1.1.json", rows)
    files.write_json(tmp_path / "hotpot_dev_distractor_v1.json", [files.hotpot(7)])
    table = read_table(MULTI_HOP["hotpotqa"], str(tmp_path), "train")
    assert [row.name for row in table.rows] == ["h0", "h1"]
    assert sum(table.skipped.values()) == 3
    assert table.skipped["a duplicate of another row"] == 1


@pytest.mark.parametrize(
    ("parse", "row"),
    [
        (parse_context, files.hotpot(0)),
        (parse_musique, files.musique(0)),
        (parse_question, files.dpr(0)),
        (parse_question, files.open_question(0)),
    ],
    ids=["hotpotqa", "musique", "dpr", "open"],
)
def test_readers_survive_any_row(parse, row):
    @given(spoilt(row))
    @limits(max_examples=120, deadline=None)
    def survives(raw):
        try:
            found = parse(raw)
        except UnfitRowError:
            return
        assert isinstance(found, Question)
        assert found.answers and all(map(normalise, found.answers))
        for item in found.evidence:
            low, high = item.support
            assert 0 <= low < high <= len(item.passage.text)

    survives()


@given(spoilt(files.squad()["data"][:2]))
@limits(max_examples=100, deadline=None)
def test_articles_survive_anything(tmp_path_factory, articles):
    path = tmp_path_factory.mktemp("squad") / "dev-v2.0.json"
    files.write_json(path, {"data": articles if isinstance(articles, list) else [articles]})
    for raw in read_questions(str(path)):
        try:
            if not isinstance(raw, UnfitRowError):
                parse_question(raw)
        except UnfitRowError:
            pass


@needs_shared
@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_shared_data_give_examples(dataset, split):
    for length, index in ((2048, 0), (4096, 1)):
        wanted = settings(SHARED, length)
        example = record(dataset, TOKENIZER, wanted, split, 0, index)
        check_record(example, TOKENIZER, length)
        assert len(example.inputs) > length - 1000
        assert len(example.targets) > 20


@needs_shared
def test_shared_data_fill_a_long_context():
    wanted = settings(SHARED, 32768)
    draft = find("hotpotqa").draft(wanted, "train", 0, 0, 0)
    example, prompt, _ = fit(draft, TOKENIZER, 32768)
    assert 32768 - 1000 < len(TOKENIZER.encode(prompt)) <= 32768
    gold = {example.user[low:high] for low, high in example.gold}
    (answer,) = example.truth["answers"]
    for item in passages_of(example.user, example):
        assert (item in gold) or f" {normalise(answer)} " not in f" {normalise(item)} "


@needs_shared
def test_shared_open_questions_have_their_answer_in_the_gold_passage():
    for dataset in SINGLE_HOP:
        rows = answered(dataset, TaskSettings(0, data_dir=str(SHARED)), "train")
        for row in rows:
            text = f"{row.evidence[0].passage.title} {row.evidence[0].passage.text}".lower()
            parted = normalise(re.sub(r"[\W_]", " ", text))
            assert any(
                normalise(answer) in text or normalise(answer) in f"{normalise(text)} {parted}"
                for answer in row.answers
            )


def test_a_question_ends_its_line_whatever_it_ends_in():
    """Questions of NQ have no question mark."""
    wordings = (
        *(*questions.WORDINGS, *own_questions.WORDINGS),
        *(*citation_qa.QUESTIONS, *long_doc_qa.QUESTIONS),
    )
    for wording in wordings:
        _, _, after = wording.partition("{question}")
        assert after == "" or after[0] == "\n", wording
