"""The release's rows and traces in their own layouts, made up with the same columns."""

import json

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets.paper import paper_dataset
from tasks.datasets.registry import find
from tasks.errors import DemonstrationError, TaskInputError, UnfitRowError
from tasks.prompts.settings import TaskSettings
from tasks.scoring.reward import SETTINGS
from tasks.scoring.truth import ground_truth
from tasks.sources import release
from tasks.sources.release import (
    has_split,
    longest_prompt,
    question_of,
    read_messages,
    read_release,
    trace_record,
    validation_split,
)
from tests.oracles.task_checks import check_record

TOKENIZER = tiny_tokenizer()
SETTINGS_900 = TaskSettings(900)


def release_record(raw, name, tokenizer, settings):
    """The record of a row in the folder of its own data set."""
    return release.release_record(raw, raw["data_source"], name, tokenizer, settings)


def row(data_source, user, answer, pos_docs=(), settings=(), **truth):
    """A row with the columns of the release."""
    return {
        "prompt": [
            {"role": "system", "content": "Think and recall."},
            {"role": "user", "content": user},
        ],
        "data_source": data_source,
        "ability": "recall",
        "reward_model": {
            "style": "rule",
            "ground_truth": {"answer": answer, "pos_docs": list(pos_docs), **truth},
        },
        "extra_info": {
            "id": 7,
            "question": "Which?",
            "question_id": "q7",
            "settings": json.dumps(dict(settings)),
        },
    }


# A row of each form of ground truth, a right answer, and a wrong one.
ROWS = {
    "retrieval": (
        row(
            "retrieval",
            "Key 1:\nab12cd\nKey 2:\nzz99yy\nWhat is key 1?",
            "ab12cd",
            ["Key 1:\nab12cd"],
        ),
        *("ab12cd", "zz99yy"),
    ),
    "math_retrieval": (
        row("math_retrieval", "Key 3:\nqwe\nCompute 1+2.", "qwe", ["Key 3:\nqwe"], math_answer="3"),
        *("qwe", "3"),
    ),
    "multi_niah": (
        row(
            *("multi_niah", "The magic number for a-b is 111. For a-b it is 222. For c-d 333."),
            *("111 222", ["number for a-b is 111"]),
            neg_answer="333",
        ),
        *("111, 222", "333, 111"),
    ),
    "banking77": (
        row(
            "banking77",
            "text: hi\nlabel: 7\n\ntext: yo\nlabel: 9\nLabel hey.",
            "7",
            ["text: hi\nlabel: 7"],
        ),
        *("7", "9"),
    ),
    "quality": (
        row("quality", "A tale.\nWho?\nA) Tom\nB) Ann\nC) Bob\nD) Eve\nGive the letter.", "B"),
        *("B", "C"),
    ),
    "majority_vote": (
        row("majority_vote", "a: Red Fox R1\nb: Red Fox R1", "Red Fox R1"),
        "R1",
        "B2",
    ),
    "top_n_vote": (
        row("top_n_vote", "a: Red Fox R1\nb: Big Cat B2", "Red Fox R1|||Big Cat B2"),
        *("Red Fox R1, Big Cat B2", "none"),
    ),
    "msmarco_v2": (
        row(
            *("msmarco_v2", "[ID: 1] cats\n[ID: 2] dogs", "2 > 1", ["[ID: 2] dogs"]),
            relevance_grades=json.dumps({"1": 0, "2": 3}),
        ),
        *("2 > 1", "1 > 2"),
    ),
    "qampari": (
        row(
            *("qampari", "Document [1] Oslo lies here.\nDocument [2] rain."),
            *(json.dumps([["Oslo", "Christiania"]]), ["Document [1] Oslo lies here."]),
        ),
        *("Oslo [1]", "rain [2]"),
    ),
    "hotpotqa": (
        row(
            "hotpotqa",
            "T\nIt is the Rhine.\nWhich river?",
            "the Rhine|||Rhine",
            ["T\nIt is the Rhine."],
        ),
        *("Rhine", "Elbe"),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_a_record_whose_right_answer_scores(name):
    raw, right, wrong = ROWS[name]
    record = release_record(raw, "a/1", TOKENIZER, SETTINGS_900)
    check_record(record, TOKENIZER, 900)
    user = raw["prompt"][1]["content"]
    assert record.dataset == name and user in record.prompt and "Think and recall." in record.prompt
    assert record.ground_truth["gold_documents"] == raw["reward_model"]["ground_truth"]["pos_docs"]
    assert record.ground_truth["question_id"] == "q7"
    # All of the user's text may be copied, and nothing else.
    start = record.prompt.index(user)
    for (low, high), may in zip(record.offsets.tolist(), record.copyable, strict=True):
        assert may == (start <= low and high <= start + len(user))
    truth, score = ground_truth(name, record.ground_truth), find(name).score
    spans = record.ground_truth["gold_documents"]
    assert score(right, spans, truth, SETTINGS["train"]) == pytest.approx(1.0)
    assert score(wrong, spans, truth, SETTINGS["train"]) < 0.7


def test_labels_of_gold_documents_are_those_that_the_reward_looks_for():
    labels = {
        name: release_record(ROWS[name][0], "a", TOKENIZER, SETTINGS_900).ground_truth.get(
            "gold_labels"
        )
        for name in ("banking77", "msmarco_v2", "qampari")
    }
    assert labels == {"banking77": ["label: 7"], "msmarco_v2": ["[ID: 2]"], "qampari": ["[1]"]}


def test_a_system_prompt_takes_the_place_of_the_rows(monkeypatch):
    raw = ROWS["retrieval"][0]
    none = release_record(raw, "a", TOKENIZER, TaskSettings(900, system=""))
    own = release_record(raw, "a", TOKENIZER, TaskSettings(900, system="Answer briefly."))
    assert "Think and recall." not in none.prompt + own.prompt
    assert "Answer briefly." in own.prompt and "system" not in none.prompt
    plain = release_record(raw, "a", TOKENIZER, TaskSettings(900, thinking=False))
    assert own.prompt.endswith("<think>\n") and not plain.prompt.endswith("<think>\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": "no messages"}, "a prompt that is not a list of messages"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "not a system prompt and one turn"),
        ({"reward_model": {}}, "no ground_truth"),
    ],
)
def test_malformed_rows_are_refused_with_their_reason(change, reason):
    with pytest.raises(UnfitRowError, match=reason):
        release_record({**ROWS["retrieval"][0], **change}, "a", TOKENIZER, SETTINGS_900)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (row("qampari", "Document [1] Oslo.", "5"), "an answer that is not a list$"),
        (row("qampari", "Document [1] Oslo.", "[5]"), "not a list of names with their aliases"),
        (row("qampari", "Document [1] Oslo.", "[[]]"), "no answer"),
        (row("qampari", "Document [1] Oslo.", '[[" "]]'), "no answer"),
        (row("qampari", "Document [1] Oslo.", "[]"), "no answer"),
        (row("top_n_vote", "a: Red Fox R1", "|||"), "no answer"),
        (row("hotpotqa", "T\nThe Rhine.", "|||"), "no answer"),
        (
            row("msmarco_v2", "[ID: 1] cats", "1", relevance_grades="[1]"),
            "no relevance_grades",
        ),
        (
            row("msmarco_v2", "[ID: 1] cats", "1", relevance_grades='{"1": 1e999}'),
            "no relevance_grades",
        ),
        (row("multi_niah", "1 2", "1", neg_answer="\ud800"), "ground_truth that is not valid Uni"),
        (row("quality", "Who?\nA) Tom", "Tom"), "an answer that is not a letter from A to D"),
        (
            row("hotpotqa", "T\nThe Rhine.", "Rhine", [5]),
            "pos_docs that is not a list of texts",
        ),
    ],
)
def test_malformed_ground_truth_is_refused_with_its_reason(raw, reason):
    with pytest.raises(UnfitRowError, match=reason):
        release_record(raw, "a", TOKENIZER, SETTINGS_900)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "no data_source"),
        ("threshold_filter", "a row of 'threshold_filter', not of retrieval"),
        ("nq", "a row of 'nq', not of retrieval"),
    ],
)
def test_rows_of_other_data_sets_are_refused(source, reason):
    raw = {**ROWS["retrieval"][0], "data_source": source}
    with pytest.raises(UnfitRowError, match=reason):
        release.release_record(raw, "retrieval", "a", TOKENIZER, SETTINGS_900)


def score_of(raw, answer, *, papers=False):
    """The score of an answer to a row, by our rule or the paper's."""
    fields = release_record(raw, "a", TOKENIZER, SETTINGS_900).ground_truth
    dataset = find(raw["data_source"])
    dataset = paper_dataset(dataset) if papers else dataset
    truth = ground_truth(dataset.name, fields)
    return dataset.score(answer, fields["gold_documents"], truth, SETTINGS["train"])


@pytest.mark.parametrize("papers", [False, True])
def test_wrong_options_of_the_most_voted_count_against_the_right_ones(papers):
    raw = row(
        *("top_n_vote", "Ann votes for: Option 1\nTop 2?", "Option 1|||Option 2"),
        neg_answer="Option 3||| |||Option 4",
    )
    assert score_of(raw, "Option 1, Option 2", papers=papers) == 1.0
    assert score_of(raw, "Option 1, Option 2, Option 3, Option 4", papers=papers) == 0.0
    assert score_of(raw, "Option 1, Option 3", papers=papers) == 0.0


def test_options_that_lost_the_vote_are_read_from_the_votes():
    votes = [f"Delegate {n} votes for: Proposal {name}" for n, name in enumerate("ABA")]
    raw = row("majority_vote", "\n".join([*votes, "Which won?"]), "Proposal A")
    truth = release_record(raw, "a", TOKENIZER, SETTINGS_900).ground_truth
    assert truth["wrong"] == ["Proposal B"]
    assert score_of(raw, "Proposal A") == 1.0
    assert score_of(raw, "Proposal A, Proposal B") == 0.0


OPTIONS = {"A": "a $1$ cat", "B": "Ann.", "C": "x) y", "D": "no one"}


@pytest.mark.parametrize("style", ["{}) {}", "{}. {}", "[{}] {}", "- {}: {}"])
@pytest.mark.parametrize("place", ["end", "beginning", "both"])
def test_the_options_are_the_four_lines_after_the_question(style, place):
    article = "A tale.\nA) one\nB) two\nC) three\nD) four\nB. Bee said so.\nD. Boone left."
    asked = "Which?\n\n" + "\n".join(style.format(*option) for option in OPTIONS.items())
    before = f"{asked}\n\n" if place != "end" else ""
    after = f"\n\n{asked}" if place != "beginning" else ""
    raw = row("quality", f"Read.\n\n{before}{article}{after}\n\nSelect one.", "B")
    truth = release_record(raw, "a", TOKENIZER, SETTINGS_900).ground_truth
    assert truth["choices"] == OPTIONS


def test_options_of_several_lines_leave_the_right_ones_text():
    user = "Which?\nA) 1\nB) 2\nor 3\nC) 4\nD) 5"
    raw = row("mcqa_math", user, "B", math_answer="2\nor 3")
    truth = release_record(raw, "a", TOKENIZER, SETTINGS_900).ground_truth
    assert truth["choices"] == {"A": "", "B": "2\nor 3", "C": "", "D": ""}
    assert score_of(raw, r"\boxed{B}") == score_of(raw, r"\boxed{2 or 3}") == 1.0
    assert score_of(raw, r"\boxed{C}") == score_of(raw, r"\boxed{A or B}") == 0.0
    raw = row("quality", user, "B")
    assert release_record(raw, "a", TOKENIZER, SETTINGS_900).ground_truth["choices"] == {}


@pytest.mark.parametrize(
    ("dataset", "document", "settings", "label"),
    [
        ("banking77", "hi (label: 7)", "7", "label: 7"),
        ("banking77", "hi | label: card (lost)", "card (lost)", "label: card (lost)"),
        ("msmarco_v2", "[ID: 2] Document: see [5]", "[ID: 2]", "[ID: 2]"),
        ("msmarco_v2", "Passage 2: see [5]", "Passage 2:", "Passage 2:"),
        ("msmarco_v2", "[Doc 2412] cats", "[Doc 2412]", "[Doc 2412]"),
        ("qampari", "Document [2](Title: Oslo): see [5]", "[2]", "[2]"),
    ],
)
def test_labels_are_those_of_the_settings_or_else_as_shown(dataset, document, settings, label):
    answer = '["Oslo"]' if dataset == "qampari" else "7"
    for known in ({"pos_doc_labels": [settings]}, {"pos_doc_labels": []}, {}):
        raw = row(
            *(dataset, f"{document}\nAsk.", answer, [document], known),
            relevance_grades='{"2": 1}',
        )
        truth = release_record(raw, "a", TOKENIZER, SETTINGS_900).ground_truth
        assert truth["gold_labels"] == [label]
    raw["extra_info"]["settings"] = "no JSON"
    truth = release_record(raw, "a", TOKENIZER, SETTINGS_900).ground_truth
    assert truth["gold_labels"] == [label]


def test_answers_that_no_document_gives_are_not_asked_for():
    settings = {
        "answer_variants": [["Oslo", "Christiania", " "], ["Bergen"], ["Rome", "Roma"]],
        "answer_to_doc_ids": {"0": [1], "1": [], "2": [2]},
    }
    documents = ["Document [1] Christiania.", "Document [2] Roma."]
    raw = row(*("qampari", "\n".join(documents), '["Oslo", "Bergen", "Rome"]', documents, settings))
    truth = release_record(raw, "a", TOKENIZER, SETTINGS_900).ground_truth
    assert truth["parts"] == [["Oslo", "Christiania"], ["Rome", "Roma"]]
    for papers in (False, True):
        assert score_of(raw, "Christiania [1], Roma [2]", papers=papers) == pytest.approx(1.0)
    raw = row("qampari", documents[0], '["Oslo", "Bergen"]', documents[:1])
    truth = release_record(raw, "a", TOKENIZER, SETTINGS_900).ground_truth
    assert truth["parts"] == [["Oslo"], ["Bergen"]]


def test_gold_that_ends_in_blanks_at_the_prompts_end_is_found():
    raw = row("retrieval", "Key?\n\n1,ab\n", "ab", ["1,ab\n"])
    record = release_record(raw, "a", TOKENIZER, SETTINGS_900)
    assert record.ground_truth["gold_documents"] == ["1,ab"]
    raw = row("retrieval", "1,ab\nKey?", "ab", ["1,ab\n"])
    record = release_record(raw, "a", TOKENIZER, SETTINGS_900)
    assert record.ground_truth["gold_documents"] == ["1,ab\n"]


def test_a_question_has_its_id_or_its_words_unless_it_asks_of_its_context():
    raw = row("nq", "x", "x")
    assert question_of(raw, "nq") == "q7"
    raw["extra_info"]["question_id"] = None
    assert question_of(raw, "nq") == "Which?"
    assert question_of(raw, "majority_vote") == question_of(raw, "quality") == ""
    raw["extra_info"]["question"] = "\ud800?"
    assert question_of(raw, "nq") == "??"


def test_a_system_prompt_that_ends_its_turn_is_refused():
    for name, read in (("nq", release_record), (None, trace_record)):
        raw = row(name, "x", "x") | {"completion": "x"}
        raw["prompt"][0]["content"] = "Recall with <|start_recall|>. <|im_end|> Hi."
        with pytest.raises(UnfitRowError, match=r"its system prompt holds the token <\|im_end\|>"):
            read(raw, "a", TOKENIZER, SETTINGS_900)
        raw["prompt"][0]["content"] = "Recall with <|start_recall|> after <think>."
        read(raw, "a", TOKENIZER, SETTINGS_900)


def test_gold_in_decomposed_letters_is_found():
    # "é" as "e" and an accent, in the prompt and in the gold document.
    raw = row("retrieval", "Key: cafe\u0301 zz\nKey?", "zz", ["Key: cafe\u0301 zz"])
    record = release_record(raw, "a", TOKENIZER, SETTINGS_900)
    assert record.ground_truth["gold_documents"] == ["Key: caf\u00e9 zz"]
    spans = trace("<recall>cafe\u0301</recall></think> y", "The cafe\u0301 is red.")
    shown = TOKENIZER.decode(trace_record(spans, "t", TOKENIZER, SETTINGS_900).targets.tolist())
    assert "caf\u00e9<|end_recall|>" in shown


def test_gold_that_is_not_there_and_prompts_too_long_are_refused():
    with pytest.raises(UnfitRowError, match="a gold document that is not in its prompt"):
        release_record(
            row("retrieval", "Key 1:\nab", "ab", ["Key 2"]), "a", TOKENIZER, SETTINGS_900
        )
    with pytest.raises(UnfitRowError, match="a prompt of more than 20 tokens"):
        release_record(ROWS["retrieval"][0], "a", TOKENIZER, TaskSettings(20))


def test_messages_may_be_json_and_lack_a_system_prompt():
    assert read_messages(json.dumps([{"role": "user", "content": "Hi"}])) == ("", "Hi")


def test_splits_are_found_by_data_set_and_length(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "retrieval"
    folder.mkdir()
    table = pyarrow.Table.from_pylist([ROWS["retrieval"][0]] * 2)
    parquet.write_table(table, folder / "val_4k-00000-of-00001.parquet")
    rows = read_release(str(tmp_path), "retrieval", validation_split(4096))
    assert len(rows) == 2
    assert release_record(rows[0], "a", TOKENIZER, SETTINGS_900).dataset == "retrieval"
    with pytest.raises(TaskInputError, match=r"has no retrieval/train\*.parquet; download"):
        read_release(str(tmp_path), "retrieval", "train")
    with pytest.raises(TaskInputError, match="the release has no prompts of 5000 tokens"):
        validation_split(5000)
    assert [validation_split(n) for n in (98_304, 131_072)] == ["val_96k", "val_128k"]


def test_sets_of_fixed_lengths_lack_the_other_splits():
    assert [n for n in release.LENGTHS if has_split("dapo_math", n)] == [4096]
    assert [n for n in release.LENGTHS if has_split("quality", n)] == [4096, 8192]
    assert all(has_split("nq", n) for n in release.LENGTHS)


def test_prompts_may_be_an_eighth_longer_than_their_split_but_the_longest():
    assert [longest_prompt(n) for n in (4096, 98_304, 131_072)] == [4608, 110_592, 131_072]


def trace(completion, user="The mill was built by Ines Roth in 1931. It is red."):
    return {
        "prompt": [{"role": "user", "content": f"{user} Who built it?"}],
        "completion": completion,
    }


@pytest.mark.parametrize(
    "tags", [("<recall>", "</recall>"), ("<|start_recall|>", "<|end_recall|>")]
)
def test_a_trace_teaches_the_prompts_own_tokens(tags):
    opened, closed = tags
    text = f"<think>\nI look. {opened}built by Ines Roth{closed} So.\n</think>\nAnswer: Ines Roth"
    record = trace_record(trace(text), "trace/1", TOKENIZER, SETTINGS_900)
    shown = TOKENIZER.decode(record.targets.tolist())
    # The token of "built" has the space before it.
    assert shown == (
        "I look. <|start_recall|> built by Ines Roth<|end_recall|> So.\n</think>\nAnswer: Ines Roth"
        f"{TOKENIZER.eos_token}"
    )
    start = record.targets.tolist().index(TOKENIZER.start_recall_id)
    end = record.targets.tolist().index(TOKENIZER.end_recall_id)
    span = record.targets[start + 1 : end].tolist()
    runs = [record.inputs[i : i + len(span)].tolist() for i in range(len(record.inputs))]
    assert span in runs
    assert record.ground_truth == {} and record.prompt.endswith("<think>\n")


@pytest.mark.parametrize(
    ("completion", "error", "reason"),
    [
        (
            "x <recall>by Tom</recall></think> y",
            UnfitRowError,
            "a span that its prompt does not hold",
        ),
        ("x <recall></recall></think> y", UnfitRowError, "a span that its prompt does not hold"),
        ("x <recall>Ines Roth</think> y", UnfitRowError, "a span that is not closed"),
        ("x </recall></think> y", UnfitRowError, "a span that is not closed, or never began"),
        ("  ", UnfitRowError, "no completion"),
        (None, UnfitRowError, "no completion"),
        ("x \ud800 y", UnfitRowError, "completion is not valid Unicode"),
        ("hello <|im_end|> there", UnfitRowError, r"its completion holds the token <\|im_end\|>"),
    ],
)
def test_traces_that_can_not_be_learned_from_are_refused(completion, error, reason):
    with pytest.raises(error, match=reason):
        trace_record(trace(completion), "trace/1", TOKENIZER, SETTINGS_900)


def test_a_span_of_too_many_tokens_is_refused():
    with pytest.raises(DemonstrationError, match=r"a span has \d+ tokens, allowed are 1 to 3"):
        trace_record(
            trace("x <recall>The mill was built by Ines Roth</recall></think> y"),
            *("trace/1", TOKENIZER, TaskSettings(900, max_recall_length=3)),
        )


def test_a_span_is_the_first_place_of_its_text():
    record = trace_record(
        trace("<recall>red</recall></think> red", "red. It is red."), "t", TOKENIZER, SETTINGS_900
    )
    start = record.targets.tolist().index(TOKENIZER.start_recall_id)
    first = int(np.flatnonzero(record.copyable)[0])
    assert record.targets[start + 1] == record.inputs[first]
