"""Ranking passages: grades and ids by place, the share of relevant ones, files of judgements."""

import gzip
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets.registry import find
from tasks.datasets.reranking import SOURCE, Query, parse_query
from tasks.errors import TaskInputError, UnfitRowError
from tasks.prompts.context import generator
from tasks.prompts.settings import TaskSettings
from tasks.sources.passages import Passage
from tasks.sources.table import read_table
from tests.oracles import passage_files as files
from tests.oracles.wild_json import spoilt

TOKENIZER = tiny_tokenizer()
LABEL = re.compile(r"\[ID: (\d+)\] Document: |Passage (\d+): |\[Doc (\d{4})\] ")
GRADES = {"Some say": 1, "was born in Port": 3, "birthplace of": 2}


def settings(data_dir, length=1500):
    return TaskSettings(length, data_dir=str(data_dir))


def draft(data_dir, index, length=1500, split="train"):
    return find("msmarco_v2").draft(settings(data_dir, length), split, 0, index, 0)


def shown(example) -> list[tuple[str, str]]:
    """Return the ids and texts of the passages, read off the prompt."""
    ((low, high),) = example.documents
    found = []
    for item in example.user[low:high].split("\n\n"):
        match = LABEL.match(item)
        found.append((next(filter(None, match.groups())), item[match.end() :]))
    return found


def asked(example) -> str:
    """Return the name that the query asks for, read outside the documents."""
    ((low, high),) = example.documents
    return re.search(r"\w+ Holt", example.user[:low] + example.user[high:])[0]


def grade_of(text: str, example) -> int:
    """Return the grade that the test's files give a text; of another query's passages 0."""
    if asked(example) not in text or text.startswith("Judged"):
        return 0
    return next((grade for start, grade in GRADES.items() if start in text), 0)


def test_grades_ids_and_ranking_belong_to_the_passages_shown(data_dir):
    forms = set()
    for index in range(20):
        example = draft(data_dir, index).example(15)
        items = shown(example)
        assert len(items) == 16
        ids = [name for name, _ in items]
        ((low, _),) = example.documents
        first = 0 if example.user[low:].startswith("Passage ") else 1
        assert [int(name) for name in ids] == list(range(first, first + 16))
        expected = {name: grade_of(text, example) for name, text in items}
        assert example.truth["grades"] == expected
        (ranking,) = example.truth["answers"]
        ranked = ranking.split(" > ")
        assert sorted(ranked) == sorted(ids)
        grades = [expected[name] for name in ranked]
        assert grades == sorted(grades, reverse=True) and grades[0] > 0
        gold = [example.user[low:high] for low, high in example.gold]
        assert len(gold) == sum(grade > 0 for grade in expected.values())
        for item, label in zip(gold, example.truth["gold_labels"], strict=True):
            assert item.startswith(label)
            assert expected[re.search(r"\d+", label)[0]] > 0
        forms.add(re.sub(r"\d+", "n", example.truth["gold_labels"][0]))
    assert forms == {"[ID: n]", "Passage n:", "[Doc n]"}


def test_one_to_ten_percent_are_relevant_where_the_row_has_them(tmp_path):
    rows = [files.ranked(0, 0)]
    rows[0]["ctxs"] = [
        {"id": str(n), "text": f"Text {n} of some words.", "label": (n < 40) * (1 + n % 3)}
        for n in range(440)
    ]
    files.write_json(tmp_path / "msmarco_v2" / "train.jsonl", rows)
    files.write_json(tmp_path / "msmarco_v2" / "dev.jsonl", [files.ranked(1)])
    shares = []
    for index in range(40):
        of_row = find("msmarco_v2").draft(settings(tmp_path, 4000), "train", 0, index, 0)
        before: set = set()
        for number in (0, 5, 30, 99, 200, 201):
            example = of_row.example(number)
            texts = {text for _, text in shown(example)}
            assert before <= texts and len(texts) == number + 1
            before = texts
            relevant = len(example.gold)
            assert relevant == 1 or relevant <= 0.1 * (number + 1) + 0.5
            if number == 200:
                shares.append(relevant / 201)
                words = example.demonstrate(generator("words", 0, index))
                recalled = [part for part in words.thought if not isinstance(part, str)]
                assert recalled == list(example.gold[:2])
                best = sorted(example.truth["grades"].values())[-2:]
                labels = example.truth["gold_labels"]
                ids = [re.search(r"\d+", label)[0] for label in labels]
                assert (
                    sorted(example.truth["grades"][name] for name in ids[:2]) == best[-len(ids) :]
                )
    assert 0.01 - 0.003 < min(shares) < 0.03 and 0.08 < max(shares) < 0.103


def test_negatives_are_of_one_source_and_no_relevant_passage_is_among_them(data_dir):
    kinds = []
    for index in range(120):
        example = draft(data_dir, index).example(10)
        number = files.MAYORS.index(asked(example).removesuffix(" Holt"))
        texts = [text for _, text in shown(example) if grade_of(text, example) == 0]
        own = sum(text.startswith(f"Judged {number}:") for text in texts)
        near = sum("Holt" in text for text in texts)
        kinds.append("judged" if own == len(texts) else "bm25" if near >= 8 else "random")
    shares = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert shares == {
        "judged": pytest.approx(0.4, abs=0.12),
        "bm25": pytest.approx(0.3, abs=0.12),
        "random": pytest.approx(0.3, abs=0.12),
    }


def test_places_of_relevant_passages_are_uniform(data_dir):
    places = []
    for index in range(200):
        example = draft(data_dir, index).example(9)
        text = example.user[slice(*example.gold[0])]
        texts = [item for _, item in shown(example)]
        places.append(texts.index(LABEL.sub("", text, count=1)))
    assert all(5 < places.count(place) < 42 for place in range(10))


def trec(folder, *, split="dev", queries="queries.dev.tsv"):
    """Write judgements, queries and passages as TREC and MS MARCO do."""
    folder = folder / "msmarco_v2"
    folder.mkdir(parents=True, exist_ok=True)
    lines, passages = [], []
    for i in range(4):
        for number, item in enumerate(files.ranked(i)["ctxs"]):
            lines.append(f"{100 + i} 0 {item['id']} {item['label'] if number else -1}")
            passages.append({"pid": item["id"], "passage": item["text"], "spans": "(0,5)"})
    lines += ["100 0 absent_1 3", "broken line", "100 0 p0_1 1"]
    (folder / f"qrels.{split}.tsv").write_text("\n".join(lines), encoding="utf-8")
    texts = [f"{100 + i}\t{files.ranked(i)['query']}" for i in range(4)]
    (folder / queries).write_text("\n".join(texts), encoding="utf-8")
    with gzip.open(folder / "passages_01.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in passages[:30])
    files.write_json(folder / "passages_02.jsonl", passages[30:])


@pytest.mark.parametrize("queries", ["queries.dev.tsv", "queries.tsv"])
def test_qrels_queries_and_passages_are_joined(tmp_path, queries):
    trec(tmp_path, queries=queries)
    table = read_table(SOURCE, str(tmp_path), "train")
    assert len(table.rows) >= 3
    assert table.skipped == {"a malformed line of qrels": 1, "a passage that is judged twice": 1}
    for row in table.rows:
        i = int(row.name) - 100
        grades = {passage.text: grade for passage, grade in row.judged}
        # The first is judged as junk (-1) here.
        judged = files.ranked(i)["ctxs"]
        assert grades == {x["text"]: x["label"] if n else 0 for n, x in enumerate(judged)}
        assert row.text == files.ranked(i)["query"]


def test_trecs_own_names_are_found_and_splits_stay_apart(tmp_path):
    trec(tmp_path, split="train", queries="queries.train.tsv")
    folder = tmp_path / "msmarco_v2"
    (folder / "2021.qrels.pass.final.txt").write_text("102 Q0 p2_1 3\n", encoding="utf-8")
    (folder / "2021_queries.tsv").write_text("102\tand what else\n", encoding="utf-8")
    assert len(read_table(SOURCE, str(tmp_path), "train").rows) == 4
    (row,) = read_table(SOURCE, str(tmp_path), "validation").rows
    assert row.text == "and what else"
    assert row.judged == ((Passage("", files.ranked(2)["ctxs"][1]["text"]), 3),)


def test_queries_or_passages_that_are_missing_are_named(tmp_path):
    trec(tmp_path)
    (tmp_path / "msmarco_v2" / "queries.dev.tsv").unlink()
    with pytest.raises(TaskInputError, match=r"has qrels\.dev\.tsv, but no queries\.dev"):
        read_table(SOURCE, str(tmp_path), "validation")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskInputError, match=r"no msmarco_v2\*/train"):
        read_table(SOURCE, str(tmp_path / "empty"), "train")


def test_copies_count_once_with_their_best_grade():
    row = files.ranked(0, 2)
    row["ctxs"] += [{"id": "x", "text": row["ctxs"][3]["text"].upper(), "label": "2"}]
    found = parse_query(row)
    assert len(found.judged) == 5
    assert dict(found.judged)[Passage("", row["ctxs"][3]["text"])] == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ctxs": []}, "no ctxs"),
        ({"ctxs": [{"id": "1", "text": "x", "label": 0}]}, "no relevant passage"),
        ({"ctxs": [{"id": "1", "text": "x", "label": "good"}]}, "a label that is not a grade"),
        (
            {"ctxs": [{"id": "1", "text": "x", "label": float("inf")}]},
            "a label that is not a grade",
        ),
        ({"ctxs": [{"id": "1", "text": "x", "label": "--1"}]}, "a label that is not a grade"),
        ({"ctxs": [{"id": "1", "text": "", "label": 1}]}, "no passage"),
        ({"query": " "}, "no query"),
        ({"qid": None}, "no qid"),
    ],
)
def test_a_malformed_row_has_a_reason(change, reason):
    with pytest.raises(UnfitRowError, match=reason):
        parse_query({**files.ranked(0), **change})


@given(spoilt(files.ranked(0, 3)))
@limits(max_examples=150, deadline=None)
def test_the_reader_survives_any_row(raw):
    try:
        found = parse_query(raw)
    except UnfitRowError:
        return
    assert isinstance(found, Query)
    grades = np.array([grade for _, grade in found.judged])
    assert grades.max() > 0 and grades.min() >= 0
