"""RULER's questions: exact templates, and the places of gold documents."""

import collections
import re

import pytest

from tasks.datasets.multi_hop_qa import SOURCES as MULTI_HOP
from tasks.datasets.single_hop_qa import SOURCES as SINGLE_HOP
from tasks.suites.ruler import questions
from tasks.suites.ruler.suite import DRAFTS, QA
from tests.oracles.ruler_files import CAPITALS, context_of, fact, made, row_spec

DEV = "dev-v2.0.json"


@pytest.mark.parametrize("task", QA)
def test_questions_follow_numbered_documents(task, data_dir):
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
    spec = row_spec("qa_1", data_dir)
    sized = DRAFTS["qa_1"](spec)
    article = next(
        names
        for names in (CAPITALS[:3], CAPITALS[3:])
        if any(n in sized.prompt(0).input for n in names)
    )
    near = sized.prompt(len(article) - 1)
    assert all(fact(name) in near.input for name in article)
    assert sized.most == len(CAPITALS) - 1


def test_a_file_that_also_serves_training_is_told(tmp_path, caplog):
    for dataset, name in (("ruler_qa_2", "hotpot_dev_distractor_v1.json"), ("ruler_qa_1", DEV)):
        (tmp_path / name).write_text("[]")
        source = {"ruler_qa_2": questions.HOTPOTQA, "ruler_qa_1": questions.SQUAD}[dataset]
        trained = {"ruler_qa_2": MULTI_HOP["hotpotqa"], "ruler_qa_1": SINGLE_HOP["nq"]}[dataset]
        questions._warn_of_training(source, trained, str(tmp_path))
        assert f"{dataset}: " in caplog.text and f"serves {trained.dataset} for" in caplog.text
        caplog.clear()
        (tmp_path / trained.files["train"][-1].replace("*", "")).write_text("[]")
        questions._warn_of_training(source, trained, str(tmp_path))
        assert not caplog.text
