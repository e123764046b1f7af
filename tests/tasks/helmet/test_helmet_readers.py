"""HELMET's prompts from rows written here in each of its layouts, and draws made a second time."""

import hashlib
import json
import logging
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from recallm_jax.setup_policy import tiny_tokenizer
from tasks.errors import TaskInputError
from tasks.helmet import cited_answers, classification, long_documents, passages
from tasks.helmet.request import Request
from tasks.helmet.suite import helmet, helmet_chat
from tasks.record import from_json, to_json
from tasks.settings import TaskSettings

TOKENIZER = tiny_tokenizer()
TASKS = {task.name: task for task in (*helmet(), *helmet_chat())}
CHAT_HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
CHAT_TAIL = "<|im_end|>\n<|im_start|>assistant"


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make(folder, name, count=1000, **options):
    settings = TaskSettings(target_length=8192, data_dir=str(folder))
    records = TASKS[name].records(TOKENIZER, settings, 8192, count, 0, **options)
    for record in records:
        assert record.dataset == name
        assert record.example_id.startswith(f"{name}_8k/")
        assert to_json(from_json(to_json(record))) == to_json(record)
    assert len({record.example_id for record in records}) == len(records)
    return records


def copied(record):
    """Return the text that may be recalled."""
    places = record.offsets[record.copyable]
    return record.prompt[places[0, 0] : places[-1, 1]]


# Recall


def kv_row(number):
    key, value = f"key-{number}", f"value-{number}"
    return {
        "context": json.dumps({key: value, "other": "thing"}),
        "question": key,
        "answer": value,
        "demos": [["k1", "v1"], ["k2", "v2"], ["k3", "v3"]],
        "num_kvs": 2,
        "depth": 0.5,
    }


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


def test_rows_are_those_of_the_benchmarks_shuffle_and_no_more_than_a_hundred(tmp_path):
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


def kilt_row(name, docs=2, **fields):
    passages = [{"title": f"T{i}", "text": f"{name} text {i}"} for i in range(docs)]
    return {"question": f"{name}?", "answers": [f"{name}!", "x"], "ctxs": passages} | fields


def kilt_files(folder, test, train, dataset="nq"):
    write(folder / f"kilt/{dataset}-dev-multikilt_1000_k50_dep6.jsonl", test)
    write(folder / f"kilt/{dataset}-train-multikilt_1000_k3_dep6.jsonl", train)


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


def shown_questions(record):
    before = record.prompt[: record.prompt.index(copied(record))]
    return [line[10:-1] for line in before.splitlines() if line.startswith("Question: ")]


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


# Re-rank


def rank_row(qid, labels, title=False):
    ctxs = [
        {"id": str(i), "text": f"{qid} text {i}", "label": label}
        | ({"title": f"T{i}"} if title else {})
        for i, label in labels.items()
    ]
    return {"qid": qid, "query": f"query {qid}", "ctxs": ctxs}


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


def alce_files(folder, rows, dataset="asqa"):
    (folder / "alce").mkdir(exist_ok=True)
    (folder / f"alce/{dataset}_eval_gtr_top2000.json").write_text(json.dumps(rows))
    demos = [
        {"question": f"D{i}?", "answer": f"A{i} [1].", "docs": [{"title": "t", "text": f"x{i}"}]}
        for i in range(4)
    ]
    (folder / "prompts").mkdir(exist_ok=True)
    content = {"instruction": "Instruction: cite.", "demos": demos}
    (folder / f"prompts/{dataset}_revised.json").write_text(json.dumps(content))


def alce_row(name, docs, **fields):
    documents = [{"title": f"T{i}", "text": f"{name} {i}"} for i in range(docs)]
    return {"question": f"{name}?", "docs": documents} | fields


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


# ICL


def csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")


def trec(folder, tests=3):
    rows = [(f"train {label} {n}", str(label)) for n in range(9) for label in range(6)]
    csv(folder / "trec_train.csv", "text,coarse_label", rows)
    csv(folder / "trec_test.csv", "text,coarse_label", [(f"test {n}", "4") for n in range(tests)])


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
    request = Request(
        dataset="icl_banking77",
        data_dir=str(tmp_path),
        length=8192,
        size=77,
        samples=154,
        tokenizer=TOKENIZER,
    )
    items = list(classification.labels(request))
    labels = Counter(item.after.strip().rsplit(" ", 1)[0] for item in items)
    assert labels == Counter(dict.fromkeys(names, 2))


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


def story(text, question="Who?", answers=("Tom", "Tommy")):
    row = {"question": {"text": question}, "answers": [{"text": a} for a in answers]}
    return row | ({"document": {"text": text}} if text else {})


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
    with pytest.raises(TaskInputError, match="a text of less than 131073 tokens"):
        make(tmp_path, "helmet_narrativeqa")


def book(number, **fields):
    return {"id": number, "context": f"Book {number}.", "input": f"Q{number}?"} | fields


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


# Bad input


def test_malformed_rows_are_left_out_and_counted(tmp_path, caplog):
    good = kilt_row("good")
    bad = [
        "{no json",
        "[1, 2]",
        json.dumps(kilt_row("a") | {"ctxs": []}),
        json.dumps(kilt_row("b") | {"answers": [""]}),
        json.dumps(kilt_row("c") | {"ctxs": [{"text": "no title"}]}),
        json.dumps({"answers": ["x"]}),
        json.dumps(kilt_row("d") | {"answers": ["half a pair \ud800"]}),
    ]
    kilt_files(tmp_path, [*bad, good], [kilt_row("d1"), kilt_row("d2")])
    with caplog.at_level(logging.WARNING):
        records = make(tmp_path, "helmet_kilt_nq")
    assert [r.ground_truth["answers"][0] for r in records] == ["good!"]
    assert "7 rows left out" in caplog.text
    for reason in (
        "no JSON",
        "no valid Unicode",
        "no object",
        "no ctxs",
        "no answers",
        "without title",
        "no id",
    ):
        assert reason in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
GOOD_ROWS = {
    "helmet_json_kv": ("json_kv/test_k105_dep6.jsonl", [kv_row(1)]),
    "helmet_ruler_niah_mv": (
        "ruler/niah_multivalue/validation_8192.jsonl",
        [{"context": "c", "query": "q", "type_needle_v": "numbers", "answer": ["1"]}],
    ),
    "helmet_kilt_popqa_3": (
        "kilt/popqa_test_1000_k50_dep6.jsonl",
        [kilt_row(f"q{i}", 1, id=f"i{i}", s_pop=9) for i in range(3)],
    ),
    "helmet_msmarco_rerank_psg": (
        "msmarco/test_reranking_data_k50_dep3.jsonl",
        [rank_row(name, {1: 0, 2: 1}) for name in "abc"],
    ),
    "helmet_alce_asqa": (
        "alce/asqa_eval_gtr_top2000.json",
        [alce_row("q", 2, qa_pairs=[{"short_answers": ["a"]}])],
    ),
    "helmet_narrativeqa": ("narrativeqa/test.jsonl", [story("text", f"{i}?") for i in range(2)]),
    "helmet_infbench_choice_eng": (
        "infbench/longbook_choice_eng.jsonl",
        [book(n, answer=["o1"], options=["o0", "o1", "o2", "o3"]) for n in range(3)],
    ),
    "helmet_multi_lexsum": (
        "multi_lexsum/validation.jsonl",
        [{"sources": ["One."], "summary/short": "Short."} for _ in range(2)],
    ),
}
OTHER_FILES = {
    "kilt/popqa_test_1000_k50_dep6.jsonl": "kilt/popqa_test_1000_k3_dep6.jsonl",
    "msmarco/test_reranking_data_k50_dep3.jsonl": "msmarco/test_reranking_data_k10_dep3.jsonl",
    "narrativeqa/test.jsonl": "narrativeqa/train.jsonl",
    "multi_lexsum/validation.jsonl": "multi_lexsum/train.jsonl",
}


def places(value, path=()):
    """Yield the paths of all values within a row."""
    yield path
    children = value.items() if isinstance(value, dict) else []
    children = enumerate(value) if isinstance(value, list) else children
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("name", GOOD_ROWS)
@limits(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_row_with_anything_in_any_place_gives_a_prompt_or_one_error(name, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    path, good = GOOD_ROWS[name]
    row = replaced(good[0], data.draw(st.sampled_from(list(places(good[0])))), data.draw(JSON))
    rows = [row, *good[1:]]
    alce_files(folder, rows)
    for file in (path, OTHER_FILES.get(path)):
        if file and not file.endswith(".json"):
            write(folder / file, map(json.dumps, rows))
    options = {"long_only": False} if "narr" in name or "book" in path or "lex" in name else {}
    try:
        make(folder, name, **options)
    except TaskInputError as error:
        assert "\n" not in str(error)


def test_a_file_without_usable_rows_is_one_error(tmp_path):
    write(tmp_path / "json_kv/test_k105_dep6.jsonl", [{"context": "x"}, "nonsense"])
    with pytest.raises(TaskInputError, match=r"k105_dep6\.jsonl has no row that can be used") as e:
        make(tmp_path, "helmet_json_kv")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_missing_file_is_one_error_that_says_where_to_get_it(name, tmp_path):
    with pytest.raises(TaskInputError, match=r"has no .*(jsonl?|csv).* get it from .+") as error:
        make(tmp_path, name)
    assert "\n" not in str(error.value)
    with pytest.raises(TaskInputError, match=r"set config\.data\.dir"):
        TASKS[name].records(TOKENIZER, TaskSettings(target_length=8192), 8192, 1, 0)


def test_a_prompt_file_of_another_form_is_an_error(tmp_path):
    alce_files(tmp_path, [alce_row("q", 1, qa_pairs=[])])
    (tmp_path / "prompts/asqa_revised.json").write_text("[]")
    with pytest.raises(TaskInputError, match=r"asqa_revised\.json: a row that is no object"):
        make(tmp_path, "helmet_alce_asqa")
    (tmp_path / "prompts/asqa_revised.json").write_text('{"instruction": "x", "demos": [{}]}')
    with pytest.raises(TaskInputError, match="no question; get it anew"):
        make(tmp_path, "helmet_alce_asqa")
    assert cited_answers.PROMPTS.startswith("HELMET")
