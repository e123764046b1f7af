"""A passage is evidence only if it supports the answer: by hand, and on questions whose passage
their authors name."""

import json

import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets.multi_hop_qa import SOURCES as MULTI_HOP
from tasks.datasets.single_hop_qa import SOURCES, SQUAD, answered, parse_question
from tasks.errors import UnfitRowError
from tasks.generate import record
from tasks.prompts.settings import TaskSettings
from tasks.scoring.answers import normalise
from tasks.sources.corpus import Corpus, corpus_of, stem
from tasks.sources.evidence import find_evidence, is_of_kind
from tasks.sources.passages import Passage, read_answers
from tasks.sources.published_evidence import read_long_answer, read_pages
from tasks.sources.table import read_table
from tests.oracles.real_data import needs_shared, shared_data

FILLER = [
    Passage(f"Lake {n}", f"Lake {n} lies in the north of France. It was surveyed in 19{n}.")
    for n in range(10, 60)
]
TEXTS = {
    "Wolf": "The wolf Akela was caught in Norway in 1998. She was sent to a zoo in Paris.",
    "Opera": "The opera Selene was written by Ada Marchetti in 1931. It is sung in Paris.",
    "Singer": "In 1998 the tenor Jon Vik sang in the opera Selene.",
    "Table": "Opera Selene " + "Act One Scene 300 seats " * 20 + "Written by Bo Lund in 1950",
}
CORPUS = Corpus([*FILLER, *(Passage(title, text) for title, text in TEXTS.items())])
TOKENIZER = tiny_tokenizer()
SHARED = shared_data()


def found(question, *answers, **options):
    """Return the title of the passage and the text that supports an answer."""
    evidence = find_evidence(CORPUS, question, answers, **options)
    if evidence is None:
        return None
    passage, (low, high) = evidence
    return passage.title, passage.text[low:high]


def test_a_passage_that_has_the_questions_words_and_the_answer_is_evidence():
    first = TEXTS["Opera"].partition(". ")[0] + "."
    assert found("by whom was the opera selene written", "Ada Marchetti") == ("Opera", first)
    assert found("who had the opera selene written", "Bo Berg", "Ada Marchetti")[0] == "Opera"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        # The year of another event, and of the same words in another passage.
        ("when was the zoo of oslo opened", "1998"),
        ("when did the opera selene win a prize in milan", "1998"),
        # A country that many passages have.
        ("where was the wolf akela caught", "France"),
        # An answer that is near, in a passage about something else.
        ("who directed the film selene in the winter", "Jon Vik"),
        # Of another kind than is asked for.
        ("when was the opera selene written", "Ada Marchetti"),
        ("who wrote the opera selene", "1931"),
        # In the passage, but far from the question's words: two lines of a table.
        ("who wrote act one of the opera selene for three hundred seats", "Bo Lund"),
        # A question without words of its own.
        ("who did it", "Ada Marchetti"),
        # Yes and no stand in no passage as an answer.
        ("was the opera selene written by ada marchetti", "yes"),
    ],
)
def test_an_answer_that_stands_there_by_chance_is_no_evidence(question, answer):
    assert found(question, answer) is None


def test_a_bare_number_needs_all_of_the_questions_words_in_its_sentence():
    assert found("when was the wolf akela caught in norway", "1998")[0] == "Wolf"
    assert found("when was the wolf akela caught in sweden", "1998") is None


def test_passages_that_are_named_are_looked_at_wherever_they_rank():
    question, answer = "who painted the blue door of the old mill", "Ines Roth"
    assert found(question, answer) is None
    named = Passage("Mill", "The blue door of the old mill was painted by Ines Roth.")
    assert found(question, answer, also=[named])[0] == "Mill"


def test_kinds_of_answers():
    assert is_of_kind("when did it end", "March 3, 2017") and not is_of_kind("When?", "in spring")
    assert is_of_kind("who was it", "Bart") and not is_of_kind("who was it", "in 1999")
    assert is_of_kind("how many are there", "seven") and not is_of_kind("how many are there", "Bo")
    assert is_of_kind("what is it", "7") and is_of_kind("where is it", "Bo")


def test_words_with_common_endings_are_one():
    assert len({stem(word) for word in ("play", "plays", "played", "playing")}) == 1
    assert stem("was") == "was"


PAGE = (
    "<H1> Mount Elgin </H1> <P> Mount Elgin is a peak . It is 4,321 m high , says `` Atlas '' . "
    "</P> <P> Snow falls . </P>"
)


def simplified():
    """A row as in Google's simplified training file: places are numbers of tokens."""
    tokens = PAGE.split(" ")
    first, last = tokens.index("<P>"), tokens.index("</P>") + 1
    height = tokens.index("4,321")
    return {
        "document_text": PAGE,
        "question_text": "how high is mount elgin",
        "annotations": [
            {
                "long_answer": {"start_token": first, "end_token": last},
                "short_answers": [{"start_token": height, "end_token": height + 2}],
            }
        ],
    }


def hugging_face():
    """The same row as Hugging Face and TFDS have it: objects of lists."""
    (annotation,) = simplified()["annotations"]
    tokens = PAGE.split(" ")
    (short,) = annotation["short_answers"]
    return {
        "document": {
            "title": "Mount Elgin",
            "tokens": {"token": tokens, "is_html": [token[0] == "<" for token in tokens]},
        },
        "question": {"text": "how high is mount elgin", "tokens": []},
        "annotations": {
            "long_answer": [annotation["long_answer"]],
            "short_answers": [{name: [place] for name, place in short.items()}],
        },
    }


def development():
    """The same row as in Google's development files."""
    tokens = [{"token": token, "html_token": token[0] == "<"} for token in PAGE.split(" ")]
    row = {name: value for name, value in simplified().items() if name != "document_text"}
    return {**row, "document_tokens": tokens, "document_title": "Mount Elgin"}


@pytest.mark.parametrize("layout", [simplified, hugging_face, development])
def test_the_long_answers_of_natural_questions_are_gold(layout):
    row = parse_question(layout())
    assert (row.text, row.answers) == ("how high is mount elgin", ("4,321 m",))
    ((passage, (low, high)),) = [(item.passage, item.support) for item in row.evidence]
    assert passage.title == "Mount Elgin"
    assert passage.text == 'Mount Elgin is a peak. It is 4,321 m high, says "Atlas".'
    assert "4,321 m" in passage.text[low:high]


def test_pages_without_an_answer_or_damaged_are_left_out():
    for change in (
        {"annotations": []},
        {"annotations": [{"long_answer": {"start_token": -1, "end_token": -1}}]},
        {"annotations": [{**simplified()["annotations"][0], "short_answers": []}]},
        {"annotations": [{"long_answer": {"start_token": 0, "end_token": 9**9}}]},
    ):
        with pytest.raises(UnfitRowError, match="no long and short answer"):
            read_long_answer({**simplified(), **change})
    outside = simplified()
    outside["annotations"][0]["short_answers"] = [{"start_token": 5, "end_token": 9**9}]
    with pytest.raises(UnfitRowError, match="outside its page"):
        read_long_answer(outside)


def write(folder, name, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")


ARCHITECTS = {0: "Petrov", 1: "Lindqvist", 7: "Moreau"}


def kilt(n, title):
    answer = f"Ana {ARCHITECTS[n]}"
    places = [{"title": title, "wikipedia_id": "1", "start_paragraph_id": 3}]
    return {
        "input": f"who built the old bridge of town{n}",
        "output": [{"answer": answer, "provenance": places}, {"answer": "", "provenance": []}],
    }


def test_kilts_pages_are_found_in_the_corpus_by_their_titles(tmp_path):
    write(tmp_path, "nq-train-kilt.jsonl", [kilt(n, f"Bridge {n}") for n in range(2)])
    write(tmp_path, "nq-dev-kilt.jsonl", [kilt(7, "Bridge 7")])
    # Nearer passages push the page's own out of the first ranks.
    near = [
        f"The old bridge of town{n} has {k} arches. Old bridge!" for n in (0, 1) for k in "abcde"
    ]
    passages = [{"title": f"Arch {n}", "text": text} for n, text in enumerate(near)]
    long = " ".join(f"word{n}" for n in range(90))
    for n in (0, 7):
        text = f"{long}. The old bridge of town{n} was built by Ana {ARCHITECTS[n]}."
        passages.append({"title": f"Bridge {n}", "text": text})
    write(tmp_path, "corpus.jsonl", passages)
    settings = TaskSettings(0, data_dir=str(tmp_path), corpus=str(tmp_path / "corpus.jsonl"))
    (row,) = answered("nq", settings, "train")
    assert row.evidence[0].passage.title == "Bridge 0"
    low, high = row.evidence[0].support
    assert "Ana Petrov" in row.evidence[0].passage.text[low:high]


def test_triviaqas_pages_come_with_the_question_paragraph_by_paragraph():
    raw = {
        "question": "Who built the old mill of Ardel?",
        "answer": {"value": "Ines Roth", "aliases": ["I. Roth"]},
        "entity_pages": {
            "title": ["Ardel"],
            "wiki_context": ["Ardel is a town.\n\nThe old mill of Ardel was built by Ines Roth.\n"],
        },
        "search_results": {"title": [], "search_context": ["Nothing is known of the mill."]},
    }
    texts = [(passage.title, passage.text) for passage in read_pages(raw)]
    assert texts == [
        ("Ardel", "Ardel is a town."),
        ("Ardel", "The old mill of Ardel was built by Ines Roth."),
        ("", "Nothing is known of the mill."),
    ]
    row = parse_question(raw)
    assert row.answers == ("Ines Roth", "I. Roth") and not row.evidence
    assert find_evidence(CORPUS, row.text, row.answers, row.others)[0].text == texts[1][1]


def test_what_is_recalled_holds_the_answer_even_if_the_title_has_it_too(tmp_path):
    """DPR's passages may have the answer in the title alone: that can't be recalled as evidence."""
    row = {
        "question": "who wrote selene",
        "answers": ["Ada Marchetti"],
        "positive_ctxs": [
            {"title": "Ada Marchetti", "text": "She was a composer."},
            {"title": "Selene", "text": f"{'It is long. ' * 30}Ada Marchetti wrote it in 1931."},
        ],
        "hard_negative_ctxs": [{"title": f"T{n}", "text": f"Text {n}."} for n in range(9)],
    }
    write(tmp_path, "biencoder-nq-train.json", [])
    (tmp_path / "biencoder-nq-train.json").write_text(json.dumps([row]))
    (tmp_path / "biencoder-nq-dev.json").write_text(json.dumps([row | {"question": "who else"}]))
    settings = TaskSettings(900, data_dir=str(tmp_path), max_recall_length=24)
    made = record("nq", TOKENIZER, settings, "train", 0, 0)
    text = TOKENIZER.decode(made.targets.tolist())
    (span,) = [part.partition("<|end_recall|>")[0] for part in text.split("<|start_recall|>")[1:]]
    # The span is cut to 24 tokens, and keeps the answer.
    assert "Ada Marchetti" in span
    # It begins and ends between words.
    whole = f" {row['positive_ctxs'][1]['text']} "
    start = whole.index(span.strip())
    assert whole[start - 1].isspace() and whole[start + len(span.strip())].isspace()


@needs_shared
def test_found_passages_are_those_the_questions_were_written_about():
    """SQuAD names the paragraph of each question, so it can tell what the search is worth."""
    settings = TaskSettings(0, data_dir=str(SHARED))
    corpus = corpus_of(settings, (SQUAD, SOURCES["nq"]))
    rows = [r for split in SQUAD.files for r in read_table(SQUAD, str(SHARED), split).rows]
    results = [(r, find_evidence(corpus, r.text, r.answers)) for r in rows]
    right = [e[0].key == r.evidence[0].passage.key for r, e in results if e is not None]
    assert len(right) > 0.35 * len(rows)
    assert sum(right) >= 0.97 * len(right)


@needs_shared
def test_found_passages_are_mostly_those_of_the_steps_of_musique():
    """MuSiQue names one paragraph for a step that can be asked alone; others may say the same."""
    steps = {}
    for line in (SHARED / "musique_dev.jsonl").read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        texts = {part["idx"]: part["paragraph_text"] for part in raw["paragraphs"]}
        for step in raw["question_decomposition"]:
            if "#" not in step["question"] and ">>" not in step["question"]:
                key = normalise(" ".join(texts[step["paragraph_support_idx"]].split()))
                steps[step["question"]] = read_answers(step["answer"]), key
    settings = TaskSettings(0, data_dir=str(SHARED))
    corpus = corpus_of(settings, (*MULTI_HOP.values(), SOURCES["nq"], SQUAD))
    found = [
        evidence[0].key == key
        for question, (answers, key) in steps.items()
        if (evidence := find_evidence(corpus, question, answers)) is not None
    ]
    assert len(found) > 0.6 * len(steps)
    # docs/results/evidence.md lists the others; they support the answer as well.
    assert sum(found) >= 0.75 * len(found)
