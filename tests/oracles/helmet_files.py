"""Rows and files in HELMET's layouts, and the records that its tasks make of them."""

import json

import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.prompts.record import from_json, to_json
from tasks.prompts.settings import TaskSettings
from tasks.suites.helmet import long_documents
from tasks.suites.helmet.suite import helmet, helmet_chat

TOKENIZER = tiny_tokenizer()
TASKS = {task.name: task for task in (*helmet(), *helmet_chat())}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def make(folder, name, count=1000, long_only=True):
    settings = TaskSettings(target_length=8192, data_dir=str(folder))
    shortest = long_documents.SHORTEST if long_only else dict.fromkeys(long_documents.SHORTEST, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_documents, "SHORTEST", shortest)
        records = TASKS[name].records(TOKENIZER, settings, 8192, count, 0)
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


def kilt_row(name, docs=2, **fields):
    passages = [{"title": f"T{i}", "text": f"{name} text {i}"} for i in range(docs)]
    return {"question": f"{name}?", "answers": [f"{name}!", "x"], "ctxs": passages} | fields


def kilt_files(folder, test, train, dataset="nq"):
    write(folder / f"kilt/{dataset}-dev-multikilt_1000_k50_dep6.jsonl", test)
    write(folder / f"kilt/{dataset}-train-multikilt_1000_k3_dep6.jsonl", train)


def shown_questions(record):
    before = record.prompt[: record.prompt.index(copied(record))]
    return [line[10:-1] for line in before.splitlines() if line.startswith("Question: ")]


def rank_row(qid, labels, title=False):
    ctxs = [
        {"id": str(i), "text": f"{qid} text {i}", "label": label}
        | ({"title": f"T{i}"} if title else {})
        for i, label in labels.items()
    ]
    return {"qid": qid, "query": f"query {qid}", "ctxs": ctxs}


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


def csv(path, header, rows):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")


def trec(folder, tests=3):
    rows = [(f"train {label} {n}", str(label)) for n in range(9) for label in range(6)]
    csv(folder / "trec_train.csv", "text,coarse_label", rows)
    csv(folder / "trec_test.csv", "text,coarse_label", [(f"test {n}", "4") for n in range(tests)])


def story(text, question="Who?", answers=("Tom", "Tommy")):
    row = {"question": {"text": question}, "answers": [{"text": a} for a in answers]}
    return row | ({"document": {"text": text}} if text else {})


def book(number, **fields):
    return {"id": number, "context": f"Book {number}.", "input": f"Q{number}?"} | fields
