"""Many answers with citations: numbers by place, grades of all documents, 70 % gold at most."""

import re

import pytest
from hypothesis import given
from hypothesis import settings as limits

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets.citation_qa import SOURCE, ManyAnswers, parse_qampari
from tasks.datasets.registry import find
from tasks.errors import UnfitRowError
from tasks.prompts.context import generator
from tasks.prompts.settings import TaskSettings
from tasks.scoring.answers import normalise
from tasks.sources.passages import Passage
from tasks.sources.table import read_table
from tests.oracles import passage_files as files
from tests.oracles.wild_json import spoilt

TOKENIZER = tiny_tokenizer()
HEAD = re.compile(r"Document \[(\d+)\](\(Title: [^)]*\)+)?: ")


def settings(data_dir, length=1200, **options):
    return TaskSettings(length, data_dir=str(data_dir), **options)


def draft(data_dir, index=0, split="train", **options):
    return find("qampari").draft(settings(data_dir, **options), split, 0, index, 0)


def documents(example) -> list[str]:
    ((low, high),) = example.documents
    return example.user[low:high].split("\n\n")


def test_documents_are_numbered_from_one_and_graded_by_whether_they_hold_an_answer(data_dir):
    for index in range(8):
        of_row = draft(data_dir, index)
        for number in (0, 3, of_row.most):
            example = of_row.example(number)
            shown = documents(example)
            assert [HEAD.match(item)[1] for item in shown] == [
                str(place) for place in range(1, len(shown) + 1)
            ]
            aliases = [alias for part in example.truth["parts"] for alias in part]
            assert len(aliases) == 4
            expected = {
                str(place): int(any(f" {a.lower()} " in f" {normalise(item)} " for a in aliases))
                for place, item in enumerate(shown, 1)
            }
            assert example.truth["grades"] == expected
            gold = [example.user[low:high] for low, high in example.gold]
            assert len(gold) == sum(expected.values()) == 2
            assert all(shown.count(item) == 1 for item in gold)
            labels = zip(gold, example.truth["gold_labels"], strict=True)
            assert all(item.startswith(f"Document {label}(") for item, label in labels)
            assert len(gold) <= 0.7 * len(shown)


def test_a_row_of_many_gold_documents_has_thirty_percent_distractors_at_least(tmp_path):
    row = files.qampari(0)
    row["answer_list"] = [
        {
            "answer_text": f"Thing{n}",
            "proof": [{"proof_text": f"This is Thing{n} of many.", "found_in_url": "x"}],
        }
        for n in range(14)
    ]
    files.write_multi_hop(tmp_path)
    files.write_json(tmp_path / "qampari" / "train_data.jsonl", [row])
    files.write_json(tmp_path / "qampari" / "dev_data.jsonl", [files.qampari(1)])
    assert len(documents(draft(tmp_path).example(0))) == 20
    corpus = tmp_path / "corpus.jsonl"
    files.write_json(corpus, [{"text": f"Line {n}."} for n in range(5)])
    with pytest.raises(UnfitRowError, match=r"14 gold documents and 5 distractors; set config"):
        draft(tmp_path, corpus=str(corpus))


def test_eighty_distractors_are_offered_at_any_length(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    files.write_json(corpus, [{"text": f"Line {n} " + "word " * 60} for n in range(200)])
    files.write_json(tmp_path / "qampari" / "train_data.jsonl", [files.qampari(0)])
    files.write_json(tmp_path / "qampari" / "dev_data.jsonl", [files.qampari(1)])
    of_row = draft(tmp_path, length=1000, corpus=str(corpus))
    assert of_row.most == 79 and len(documents(of_row.example(of_row.most))) == 82


def test_the_question_stands_first_in_most_prompts(data_dir):
    places = []
    for index in range(200):
        example = draft(data_dir, index).example(2)
        ((low, high),) = example.documents
        ends = ("Which towns" in example.user[:low], "Which towns" in example.user[high:])
        places.append(ends)
    shares = {place: places.count(place) / 200 for place in set(places)}
    assert shares == {
        (True, False): pytest.approx(0.6, abs=0.1),
        (False, True): pytest.approx(0.2, abs=0.1),
        (True, True): pytest.approx(0.2, abs=0.1),
    }


def test_a_demonstration_cites_for_each_answer_a_document_that_it_recalled(data_dir):
    for index in range(6):
        example = draft(data_dir, index).example(5)
        words = example.demonstrate(generator("words", 0, index))
        recalled = [example.user[p[0] : p[1]] for p in words.thought if not isinstance(p, str)]
        cited = re.findall(r"(\w+) \[(\d+)\]", words.answer)
        assert [name for name, _ in cited] == example.truth["answers"][0].split(", ")
        assert len(cited) == 2
        for (name, number), document in zip(cited, recalled, strict=True):
            assert document.startswith(f"Document [{number}](Title: {name}")


def test_five_documents_are_recalled_and_all_answers_cited(tmp_path):
    row = files.qampari(0)
    row["answer_list"] = [
        {
            "answer_text": f"Thing{n}",
            "proof": [{"proof_text": f"This is Thing{n} of many.", "found_in_url": None}],
        }
        for n in range(9)
    ]
    files.write_multi_hop(tmp_path)
    files.write_json(tmp_path / "qampari" / "train_data.jsonl", [row])
    files.write_json(tmp_path / "qampari" / "dev_data.jsonl", [files.qampari(1)])
    words = draft(tmp_path).example(3).demonstrate(generator("words", 0, 0))
    assert sum(not isinstance(part, str) for part in words.thought) == 5
    assert re.sub(r" \[\d+\]", "", words.answer) == ", ".join(f"Thing{n}" for n in range(9))
    assert all(f"Thing{n}" in str(words.thought[-1]) for n in range(5, 9))


def test_answers_cite_documents_of_their_own_as_far_as_there_are(tmp_path):
    row = files.alce(0)
    row["answers"] = [["Ardel"], ["Brimo"]]
    texts = ["The towns Ardel and Brimo are near.", "Only the town of Ardel is near."]
    row["docs"] = [{"title": "T", "text": text} for text in texts]
    row["docs"] += [files.passage(item) for item in files.FILLERS]
    files.write_json(tmp_path / "qampari_eval.json", [{**row, "id": str(n)} for n in range(9)])
    example = draft(tmp_path).example(4)
    answer = example.demonstrate(generator("words", 0, 0)).answer
    found = {int(HEAD.match(item)[1]): HEAD.sub("", item) for item in documents(example)}
    cited = {name: found[int(n)] for name, n in re.findall(r"(\w+) \[(\d+)\]", answer)}
    assert cited == {"Ardel": texts[1], "Brimo": texts[0]}


def test_alces_documents_that_hold_an_answer_by_chance_are_not_gold():
    texts = {
        "Up": "Up is a film that Pete Docter directed.",
        "Prices": "Prices went up in May.",
        "Soul": "Soul is a 2020 film by Pete Docter.",
        "Oats": "Oats are good for man and horse.",
    }
    row = parse_qampari(
        {
            "id": "1",
            "question": "Which films did Pete Docter direct?",
            "answers": [["Up"], ["Soul"]],
            "docs": [{"title": title, "text": text} for title, text in texts.items()],
        }
    )
    assert [passage.title for passage in row.gold] == ["Up", "Soul"]
    # What holds an answer is no distractor either.
    assert [passage.title for passage in row.others] == ["Oats"]


def test_alces_documents_are_gold_where_they_hold_an_answer(tmp_path):
    row = parse_qampari(files.alce(3))
    assert [p.title for p in row.gold] == ["Dorvale", "Elmwick"]
    assert len(row.others) == 7 + len(files.FILLERS)
    assert row.answers == (("Dorvale", "Dorvale Town"), ("Elmwick",), ("Nowhere",))
    files.write_json(tmp_path / "qampari_eval_gtr_top100.json", [files.alce(i) for i in range(9)])
    assert len(read_table(SOURCE, str(tmp_path), "train").rows) >= 5
    example = draft(tmp_path).example(0)
    # An answer that no document holds is not asked for.
    assert ["Nowhere"] not in example.truth["parts"] and len(example.truth["parts"]) == 2


def test_proofs_that_hold_the_answer_are_gold_under_their_articles_title():
    row = parse_qampari(files.qampari(0))
    assert row.gold[0] == Passage("Ardel (town)", "The town of Ardel lies near.")
    assert len(row.gold) == 2 and row.others == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer_list": []}, "no answer_list"),
        ({"answer_list": [{"answer_text": "the"}]}, "no answer"),
        ({"answer_list": [{"answer_text": "X", "proof": []}]}, "an answer that is in no passage"),
        ({"question_text": ""}, "no question"),
    ],
)
def test_a_malformed_row_has_a_reason(change, reason):
    with pytest.raises(UnfitRowError, match=reason):
        parse_qampari({**files.qampari(0), **change})


@pytest.mark.parametrize("row", [files.qampari(0), files.alce(0)], ids=["original", "alce"])
def test_readers_survive_any_row(row):
    @given(spoilt(row))
    @limits(max_examples=120, deadline=None)
    def survives(raw):
        try:
            found = parse_qampari(raw)
        except UnfitRowError:
            return
        assert isinstance(found, ManyAnswers)
        assert found.gold and found.answers and all(found.answers)

    survives()
