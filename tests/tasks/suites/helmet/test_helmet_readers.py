"""HELMET's prompts from rows in each of its layouts, and its draws repeated."""

import hashlib
import json
import random
import re
from collections import Counter

import numpy as np
import pytest

from tasks.errors import TaskInputError
from tasks.suites.helmet import classification, long_documents, passages
from tasks.suites.helmet.selection import Selection
from tests.oracles.helmet_files import (
    TASKS,
    TOKENIZER,
    alce_files,
    alce_row,
    book,
    copied,
    csv,
    kilt_files,
    kilt_row,
    kv_row,
    make,
    rank_row,
    shown_questions,
    story,
    trec,
    write,
)

CHAT_HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
CHAT_TAIL = "<|im_end|>\n<|im_start|>assistant"


# Recall


def test_json_kv_has_its_form_letter_by_letter(tmp_path):
    write(tmp_path / "json_kv/test_k105_dep6.jsonl", [kv_row(7)])
    (record,) = make(tmp_path, "helmet_json_kv")
    instruction = "Extract the value corresponding to the specified key of the JSON object above."
    assert record.prompt == (
        '{"key-7": "value-7", "other": "thing"}\n\n'
        f"{instruction}\n\n"
        "Key: k1\nCorresponding value: v1\n\n"
        "Key: k2\nCorresponding value: v2\n\n"
        "Key: key-7\n"
        "Corresponding value:"
    )
    assert record.ground_truth["answers"] == ["value-7"]
    assert copied(record) == '{"key-7": "value-7", "other": "thing"}'


def test_rows_are_the_first_hundred_of_the_benchmarks_shuffle(tmp_path):
    write(tmp_path / "json_kv/test_k105_dep6.jsonl", map(kv_row, range(130)))
    records = make(tmp_path, "helmet_json_kv")
    order = np.random.default_rng(42).permutation(130)[:100]
    assert [r.ground_truth["answers"][0] for r in records] == [f"value-{i}" for i in order]
    few = make(tmp_path, "helmet_json_kv", count=3)
    assert [r.prompt for r in few] == [r.prompt for r in records[:3]]


def test_a_needle_is_asked_for_with_rulers_words(tmp_path):
    row = {
        "context": "Some text.\nOne of the special magic numbers for red-fox is: 7654321.",
        "query": "red-fox",
        "type_needle_v": "number",
        "num_v": 1,
        "answer": ["7654321"],
    }
    write(tmp_path / "ruler/niah_multikey_2/validation_8192.jsonl", [row])
    (record,) = make(tmp_path, "helmet_ruler_niah_mk_2")
    assert record.prompt == (
        "A special magic number is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the number afterwards.\n"
        f"{row['context']}\n"
        "What is the special magic number for red-fox mentioned in the provided text?\n"
        "The special magic number for red-fox mentioned in the provided text is"
    )
    assert copied(record) == row["context"]


def test_several_values_are_asked_for_in_the_plural(tmp_path):
    row = {
        "context": "Text.",
        "question": "red-fox",
        "type_needle_v": "numbers",
        "outputs": ["1234567", "7654321"],
    }
    write(tmp_path / "ruler/niah_multivalue/validation_8192.jsonl", [row])
    (record,) = make(tmp_path, "helmet_ruler_niah_mv")
    assert record.prompt == (
        "Some special magic numbers are hidden within the following text. Make sure to memorize "
        "it. I will quiz you about the numbers afterwards.\nText.\n"
        "What are all the special magic numbers for red-fox mentioned in the provided text?\n"
        "The special magic numbers for red-fox mentioned in the provided text are"
    )
    assert record.ground_truth["answers"] == ["1234567", "7654321"]


# RAG


def test_a_question_over_passages_has_its_form_letter_by_letter(tmp_path):
    kilt_files(
        tmp_path, [kilt_row("q")], [kilt_row("d1", 1), kilt_row("d1", 2)] * 3 + [kilt_row("d2", 1)]
    )
    (record,) = make(tmp_path, "helmet_kilt_nq")
    demos = [
        f"Document (Title: T0): {d} text 0\n\n{more}Question: {d}?\nAnswer: {d}!\n\n"
        for d, more in (("d1", ""), ("d1", "Document (Title: T1): d1 text 1\n\n"), ("d2", ""))
    ]
    context = "Document (Title: T0): q text 0\n\nDocument (Title: T1): q text 1"
    allowed = [
        f"{passages.QUESTION}{a}{b}{context}\n\nQuestion: q?\nAnswer:"
        for a in demos
        for b in demos
        if a.partition("text")[0] != b.partition("text")[0]
    ]
    # Two demonstrations, never twice the same question.
    assert record.prompt in allowed
    assert record.ground_truth["answers"] == ["q!", "x"]
    assert copied(record) == context


def test_demonstrations_are_drawn_by_the_sha_256_of_the_key(tmp_path):
    train = [kilt_row(f"demo{i}", 1) for i in range(20)]
    kilt_files(tmp_path, [kilt_row(f"q{i}") for i in range(5)], train)
    for record in make(tmp_path, "helmet_kilt_nq"):
        question = record.prompt.splitlines()[-2].removeprefix("Question: ")
        seed = int.from_bytes(hashlib.sha256(question.encode()).digest(), "big") % 2**31
        order = np.random.default_rng(seed).permutation(20)
        assert shown_questions(record) == [f"demo{i}" for i in order[:2]]


def test_a_hundred_questions_are_drawn_with_all_their_depths(tmp_path):
    test = [kilt_row(f"q{i:03}", 1, id=f"id{i:03}", depth=d) for i in range(120) for d in (0, 1)]
    kilt_files(tmp_path, test, [kilt_row(f"d{i}", 1, id=f"d{i}") for i in range(3)], "triviaqa")
    records = make(tmp_path, "helmet_kilt_triviaqa")
    keys = Counter(r.example_id.split("/")[1] for r in records)
    expected = random.Random(42).sample([f"id{i:03}" for i in range(120)], 100)
    assert keys == Counter(dict.fromkeys(expected, 2))


def test_popular_entities_are_left_out_and_no_question_is_its_own_demonstration(tmp_path):
    rows = [kilt_row(f"q{i}", 1, id=f"i{i}", s_pop=views) for i, views in enumerate([5, 999, 1000])]
    rows.append(kilt_row("q3", 1, id="i3", s_pop=1))
    write(tmp_path / "kilt/popqa_test_1000_k50_dep6.jsonl", rows)
    write(tmp_path / "kilt/popqa_test_1000_k3_dep6.jsonl", rows)
    records = make(tmp_path, "helmet_kilt_popqa_3")
    shown = {r.example_id.split("/")[1]: set(shown_questions(r)) for r in records}
    assert shown == {"i0": {"q1", "q3"}, "i1": {"q0", "q3"}, "i3": {"q0", "q1"}}


def test_popqas_questions_are_drawn_from_sorted_numbers(tmp_path):
    """Ids are whole numbers in its file: 9 comes before 10, unlike the texts "9" and "10"."""
    rows = [kilt_row(f"q{i}", 1, id=i, s_pop=10) for i in range(150)]
    write(tmp_path / "kilt/popqa_test_1000_k50_dep6.jsonl", rows)
    write(tmp_path / "kilt/popqa_test_1000_k3_dep6.jsonl", rows)
    drawn = {int(r.example_id.split("/")[1]) for r in make(tmp_path, "helmet_kilt_popqa_3")}
    assert drawn == set(random.Random(42).sample(range(150), 100))


# Re-rank


def test_a_ranking_has_its_form_letter_by_letter(tmp_path):
    test = tmp_path / "msmarco/test_reranking_data_k50_dep3.jsonl"
    write(test, [rank_row("q", {4: 0, 11: 2, 7: 1}, title=True)])
    demos = [rank_row("a", {1: 0, 2: 3}), rank_row("b", {9: 1}), rank_row("q", {5: 1})]
    write(tmp_path / "msmarco/test_reranking_data_k10_dep3.jsonl", demos)
    (record,) = make(tmp_path, "helmet_msmarco_rerank_psg")
    shown = {
        "a": "[ID: 1] Document: a text 1\n\n[ID: 2] Document: a text 2\n\n"
        "Query: query a\nRanking: 2 > 1\n\n",
        "b": "[ID: 9] Document: b text 9\n\nQuery: query b\nRanking: 9\n\n",
    }
    context = (
        "[ID: 4] Document (Title: T4): q text 4\n\n[ID: 11] Document (Title: T11): q text 11\n\n"
        "[ID: 7] Document (Title: T7): q text 7"
    )
    ends = f"{context}\n\nQuery: query q\nRanking:"
    either = [passages.RANKING + "".join(shown[d] for d in order) + ends for order in ("ab", "ba")]
    assert record.prompt in either
    assert record.ground_truth["grades"] == {"4": 0, "11": 2, "7": 1}
    assert record.ground_truth["answers"] == ["11 > 7 > 4"]
    assert "Ranking: ID3 > ID1 > ID2" in passages.RANKING


# Cite


def test_a_cited_answer_has_its_form_and_as_many_documents_as_the_length_says(tmp_path):
    row = alce_row("q", 40, qa_pairs=[{"short_answers": ["1999", "in 1999"]}])
    alce_files(tmp_path, [row])
    (record,) = make(tmp_path, "helmet_alce_asqa")
    documents = "\n\n".join(f"Document [{i + 1}](Title: T{i}): q {i}" for i in range(30))
    first, second = random.Random(42).sample(range(4), 2)
    demos = "".join(
        f"Instruction: cite.\n\nQuestion: D{i}?\n\nDocument [1](Title: t): x{i}\n\n"
        f"Answer: A{i} [1].\n\n\n"
        for i in (first, second)
    )
    user = f"{demos}Instruction: cite.\n\nQuestion: q?\n\n{documents}"
    assert record.prompt == CHAT_HEAD + user + CHAT_TAIL
    assert record.ground_truth["parts"] == [["1999", "in 1999"]]
    assert record.ground_truth["choices"]["30"] == "Title: T29\nq 29"
    assert "31" not in record.ground_truth["choices"]
    assert copied(record) == documents


def test_qamparis_answers_are_lists_of_aliases(tmp_path):
    alce_files(tmp_path, [alce_row("q", 2, answers=[["a", "b"], ["c"]])], "qampari")
    (record,) = make(tmp_path, "helmet_alce_qampari")
    assert record.ground_truth["parts"] == [["a", "b"], ["c"]]
    score = TASKS["helmet_alce_qampari"].score("B [1], d [2]", record.ground_truth)
    assert score["qampari_rec_top5"] == 0.5


def test_the_documents_of_a_demonstration_end_as_its_file_says(tmp_path):
    """QAMPARI's file puts one line break before the answer, ASQA's two."""
    alce_files(tmp_path, [alce_row("q", 2, answers=[["a"]])], "qampari")
    path = tmp_path / "prompts/qampari_revised.json"
    content = json.loads(path.read_text())
    form = "{instruction}\n\nQuestion: {question}\n\n{context}\nAnswer: {answer}"
    path.write_text(json.dumps(content | {"demo_prompt": form}))
    (record,) = make(tmp_path, "helmet_alce_qampari")
    assert re.search(r"Document \[1\]\(Title: t\): x\d\nAnswer: A\d", record.prompt)


# ICL


def test_labelled_texts_have_their_form_and_labels_permuted_by_the_texts_hash(tmp_path):
    trec(tmp_path)
    prompts = set()
    for number, record in enumerate(make(tmp_path, "helmet_icl_trec_coarse")):
        text = f"test {number}"
        seed = (int(hashlib.sha256(text.encode()).hexdigest(), 16) + 42) % 2**31
        shown = list(range(6))
        random.Random(seed).shuffle(shown)
        assert record.ground_truth["answers"] == [str(shown[4])]
        assert record.prompt.startswith(classification.INSTRUCTION)
        assert record.prompt.endswith(f"\n\n{text}\nlabel:")
        demos = copied(record).split("\n\n")
        assert len(demos) == 400
        for demo in demos:
            label = int(demo.split()[1])
            assert demo.endswith(f"\nlabel: {shown[label]}")
        # Every round holds each label once, in changing order.
        rounds = [[d.split()[1] for d in demos[i : i + 6]] for i in range(0, 396, 6)]
        assert all(sorted(one) == list("012345") for one in rounds)
        assert len({tuple(one) for one in rounds}) > 10
        # The 9 texts of a label come 67 times, so 7 or 8 times each; the last round is cut short.
        counts = Counter(demo.split("\n")[0] for demo in demos)
        assert set(counts.values()) <= {6, 7, 8}
        prompts.add(copied(record))
    assert len(prompts) == 3
    assert '"label: {label}"' in classification.INSTRUCTION


def test_names_of_labels_are_numbered_and_tests_balanced(tmp_path):
    names = [f"intent {chr(97 + n // 10)}{n % 10}" for n in range(77)]
    csv(tmp_path / "banking77_train.csv", "text,category", [(f"t {n}", n) for n in names])
    tests = [(f"{name} {n}", name) for name in names for n in range(8 if "a0" in name else 7)]
    csv(tmp_path / "banking77_test.csv", "text,category", tests)
    selection = Selection(
        dataset="icl_banking77",
        data_dir=str(tmp_path),
        length=8192,
        size=77,
        samples=154,
        tokenizer=TOKENIZER,
    )
    items = list(classification.labels(selection))
    labels = Counter(item.after.strip().rsplit(" ", 1)[0] for item in items)
    assert labels == Counter(dict.fromkeys(names, 2))


def test_the_white_space_around_a_text_is_kept_and_hashed(tmp_path):
    rows = [(f'"\ntext {n} "', str(n % 77)) for n in range(154)]
    csv(tmp_path / "banking77_train.csv", "text,label", rows)
    csv(tmp_path / "banking77_test.csv", "text,label", [('" spare "', "5")])
    (record,) = make(tmp_path, "helmet_icl_banking77")
    assert record.prompt.endswith("\n\n spare \nlabel:")
    assert "\n\n\ntext " in record.prompt
    shown = list(range(77))
    random.Random(classification.text_seed(" spare ", plus=42)).shuffle(shown)
    assert record.ground_truth["answers"] == [str(shown[5])]


def test_a_tenth_of_nlu_is_for_tests(tmp_path):
    rows = [(f"text {n} {k}", str(n)) for k in range(5) for n in range(68)]
    csv(tmp_path / "nlu_evaluation_data.csv", "text,label", rows)
    train, test = classification.read_splits("icl_nlu", str(tmp_path))
    assert (len(train), len(test)) == (306, 34)
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(rows)


def test_another_data_set_is_not_taken_for_nlu(tmp_path):
    rows = [(f"text {n} {k}", f"intent_{n}") for k in range(5) for n in range(59)]
    csv(tmp_path / "nlu_evaluation_data.csv", "text,label", rows)
    with pytest.raises(TaskInputError, match="59 labels where the data set has 68"):
        make(tmp_path, "helmet_icl_nlu")


# LongQA and Summ


def test_a_story_is_cut_to_its_tokens_with_a_remark(tmp_path):
    words = " ".join(f"word{n}" for n in range(9000))
    write(tmp_path / "narrativeqa/test.jsonl", [story(words)])
    demos = [story("", f"Demo {i}?", [f"a{i}", "b"]) for i in range(2)]
    write(tmp_path / "narrativeqa/train.jsonl", demos)
    (record,) = make(tmp_path, "helmet_narrativeqa", long_only=False)
    start = f"{CHAT_HEAD}{long_documents.STORY_QUESTION}For example:\n\nQuestion: Demo "
    assert record.prompt.startswith(start)
    assert "Question: Demo 0?\nAnswer: a0\n\n" in record.prompt
    assert record.prompt.endswith(f"\n\nQuestion: Who?{CHAT_TAIL}")
    context = copied(record)
    assert context.endswith(" ... [the rest of the text is omitted]")
    assert words.startswith(context.removesuffix(" ... [the rest of the text is omitted]"))
    # 8192 - 300 tokens, as HELMET's name of the task says, up to a joint.
    assert 7892 - 2 <= len(TOKENIZER.encode(context)) <= 7892
    assert record.ground_truth["answers"] == ["Tom", "Tommy"]


def test_short_texts_are_left_out_as_the_benchmark_does(tmp_path):
    write(tmp_path / "narrativeqa/test.jsonl", [story("short")])
    write(tmp_path / "narrativeqa/train.jsonl", [story("", "a?"), story("", "b?")])
    with pytest.raises(TaskInputError, match="a text of fewer than 131073 tokens"):
        make(tmp_path, "helmet_narrativeqa")


def test_a_choice_shows_lettered_options_and_other_rows_without_their_books(tmp_path):
    rows = [book(n, answer=[f"o{n}"], options=["o0", "o1", "o2", "o3"]) for n in range(3)]
    write(tmp_path / "infbench/longbook_choice_eng.jsonl", rows)
    options = "Options:\nA. o0\nB. o1\nC. o2\nD. o3"
    for record in make(tmp_path, "helmet_infbench_choice_eng", long_only=False):
        number = int(record.example_id.rsplit("/")[-1])
        assert copied(record) == f"Book {number}."
        assert record.prompt.endswith(
            f"Book {number}.\n\nQuestion: Q{number}?\n{options}{CHAT_TAIL}"
        )
        assert record.ground_truth["answers"] == ["ABC"[number]]
        for other in range(3):
            shown = f"[book]\nQuestion: Q{other}?\n{options}\nAnswer: {'ABC'[other]}\n\n"
            assert (shown in record.prompt) == (other != number)


def test_questions_on_books_and_summaries_have_their_ends(tmp_path):
    rows = [book(n, answer=[f"a{n}"], options=[]) for n in range(3)]
    write(tmp_path / "infbench/longbook_qa_eng.jsonl", rows)
    write(tmp_path / "infbench/longbook_sum_eng.jsonl", rows)
    qa = make(tmp_path, "helmet_infbench_qa_eng", count=1, long_only=False)[0]
    assert f".\n\nQuestion: Q{qa.example_id[-1]}?{CHAT_TAIL}" in qa.prompt
    summary = make(tmp_path, "helmet_infbench_sum_eng", count=1, long_only=False)[0]
    assert summary.prompt.endswith(f".\n\nNow summarise the book.{CHAT_TAIL}")
    assert summary.prompt.count("[book]\nSummary: a") == 2


def test_a_case_is_summarised_from_its_sources(tmp_path):
    case = {"sources": ["One.", "Two."], "summary/short": "Short."}
    write(tmp_path / "multi_lexsum/validation.jsonl", [case, case | {"summary/short": None}])
    demos = [{"summary/short": "S1"}, {"summary/short": None}, {"summary/short": "S2"}]
    write(tmp_path / "multi_lexsum/train.jsonl", demos)
    (record,) = make(tmp_path, "helmet_multi_lexsum", long_only=False)
    assert record.prompt.endswith(
        f"Legal documents:\nOne.\n\nTwo.\n\nNow summarise the case.{CHAT_TAIL}"
    )
    assert "Summary: S1\n\n" in record.prompt and "Summary: S2\n\n" in record.prompt
    assert copied(record) == "One.\n\nTwo."


def test_cases_are_drawn_from_those_that_are_left(tmp_path):
    """As in HELMET, cases without a short summary are left out before the draw, not after it."""
    cases = [
        {"sources": [f"Case {n}."], "summary/short": None if n % 3 == 0 else f"S{n}"}
        for n in range(60)
    ]
    write(tmp_path / "multi_lexsum/validation.jsonl", cases)
    write(tmp_path / "multi_lexsum/train.jsonl", [{"summary/short": f"T{n}"} for n in range(3)])
    records = make(tmp_path, "helmet_multi_lexsum", long_only=False)
    left = [n for n in range(60) if n % 3]
    order = np.random.default_rng(42).permutation(len(left))
    assert [copied(record) for record in records] == [f"Case {left[place]}." for place in order]
