"""The contract of all data sets, tested on each that is declared."""

import dataclasses
import functools
import itertools

import pytest

from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.policy.tiny import tiny_tokenizer
from tasks.datasets.registry import DECLARED, find
from tasks.errors import TaskInputError
from tasks.generate import record
from tasks.metrics import metric_functions
from tasks.prompts.context import generator
from tasks.prompts.record import Record, to_json
from tasks.prompts.settings import TaskSettings
from tasks.scoring.reward import SETTINGS
from tasks.scoring.truth import ground_truth
from tasks.sources.table import read_table
from tests.oracles.task_checks import check_fit, check_record, demonstration_reward

TOKENIZER = tiny_tokenizer()
NAMES = [dataset.name for dataset in DECLARED]
SPLITS = ("train", "validation")


# Their table holds the rows of both splits; the tests of their own files look at the prompts.
PARTED_LATER = ("massive", "dapo_math", "mcqa_math")


@dataclasses.dataclass(frozen=True)
class Size:
    """Target lengths, the fewest fillers that fit them, and how many examples are looked at."""

    lengths: tuple[int, ...]
    fillers: int
    count: int = 4


QUESTIONS = Size((900,), 1)
SIZES = {
    "retrieval": Size((500,), 6, 6),
    "multi_niah": Size((2500,), 6),
    "math_retrieval": Size((500,), 6, 6),
    "dapo_math": Size((1000,), 0),
    "mcqa_math": Size((1000,), 0),
    "banking77": Size((300, 420, 900, 1500), 1, 6),
    "massive": Size((300, 420, 900, 1500), 1, 6),
    "quality": Size((1500,), 0, 8),
    "majority_vote": Size((2000,), 6),
    "top_n_vote": Size((2000,), 6),
    "msmarco_v2": Size((900, 1500), 1, 6),
    "qampari": Size((1200,), 1, 6),
    "hotpotqa": QUESTIONS,
    "musique": QUESTIONS,
    "2wikimultihopqa": QUESTIONS,
    "nq": QUESTIONS,
    "triviaqa": QUESTIONS,
    "own_questions": Size((700,), 0, 10),
}


def settings(name: str, data_dir: str, length: int | None = None) -> TaskSettings:
    return TaskSettings(length or SIZES[name].lengths[-1], data_dir=data_dir)


@functools.lru_cache(maxsize=256)
def make(name: str, data_dir: str, split: str, index: int) -> Record:
    return record(name, TOKENIZER, settings(name, data_dir), split, 3, index)


def each_record(name: str, data_dir: str):
    for split in SPLITS:
        for index in range(SIZES[name].count):
            yield make(name, data_dir, split, index)


def each_draft(name: str, data_dir: str, length: int | None = None):
    for index in range(SIZES[name].count):
        wanted = settings(name, data_dir, length)
        yield find(name).draft(wanted, "train", 0, index, 0)


def test_every_data_set_has_a_size():
    assert list(SIZES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_records_are_exact_and_pass_into_batches(name, data_dir):
    for example in each_record(name, data_dir):
        length = SIZES[name].lengths[-1]
        check_record(example, TOKENIZER, length)
        assert example.dataset == name
        assert example.copyable.any() == find(name).has_context
        has_gold = find(name).reward.gold_mode not in ("always_1", "used_recall")
        assert bool(example.ground_truth["gold_documents"]) == has_gold
        prompts, (text,) = prompts_and_texts([example], length)
        assert prompts.copyable.any() == find(name).has_context
        assert text.ground_truth == ground_truth(name, example.ground_truth)


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_a_function_of_split_seed_and_index(name, data_dir):
    def made(split="train", seed=0, index=0) -> str:
        wanted = settings(name, data_dir)
        return to_json(record(name, TOKENIZER, wanted, split, seed, index))

    assert made() == made()
    others = [{}, {"split": "validation"}, {"seed": 1}, {"index": 1}]
    assert len({made(**options) for options in others}) == 4


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint(name, data_dir):
    prompts = [
        {make(name, data_dir, split, index).prompt for index in range(SIZES[name].count)}
        for split in SPLITS
    ]
    assert not prompts[0] & prompts[1]
    source = find(name).source
    if source is not None and name not in PARTED_LATER:
        train, validation = (
            {str(source.key(row)) for row in read_table(source, data_dir, split).rows}
            for split in SPLITS
        )
        assert train and validation and not train & validation


@pytest.mark.parametrize("name", NAMES)
def test_a_record_names_its_question_whatever_the_length_is(name, data_dir):
    ids = [make(name, data_dir, "validation", n).ground_truth["question_id"] for n in range(3)]
    assert all(ids)
    # A longer prompt asks the same, unless rows that were too long have become short enough.
    if find(name).source is None:
        longer = dataclasses.replace(settings(name, data_dir), target_length=3000)
        same = record(name, TOKENIZER, longer, "validation", 3, 1)
        assert same.ground_truth["question_id"] == ids[1] != ids[0]
    else:
        # Rows of the data set come again, and so does what they ask.
        rows = len(read_table(find(name).source, data_dir, "validation").rows)
        asked = [make(name, data_dir, "validation", n) for n in range(min(3 * rows, 24))]
        distinct = {example.ground_truth["question_id"] for example in asked}
        assert len(distinct) <= rows
        assert len(distinct) > 1


@pytest.mark.parametrize("name", NAMES)
def test_the_context_is_the_longest_that_fits(name, data_dir):
    for length in SIZES[name].lengths:
        # The synthetic ones take a second each.
        count = 2 if find(name).source is None else SIZES[name].count
        for draft in itertools.islice(each_draft(name, data_dir, length), count):
            assert check_fit(draft, TOKENIZER, length) >= SIZES[name].fillers


@pytest.mark.parametrize("name", NAMES)
def test_gold_items_stand_inside_the_documents_at_every_size(name, data_dir):
    for draft in each_draft(name, data_dir):
        most = min(draft.most, 200)
        for number in {0, min(1, most), most // 2, most}:
            example = draft.example(number)
            ends = [0, *(place for document in example.documents for place in document)]
            assert ends == sorted(ends) and ends[-1] <= len(example.user)
            assert bool(example.documents) == find(name).has_context
            for low, high in example.gold:
                assert low < high
                assert any(start <= low and high <= end for start, end in example.documents)
            assert ground_truth(name, {**example.truth, "gold_documents": ()})


@pytest.mark.parametrize("name", NAMES)
def test_one_more_filler_makes_the_context_longer_and_the_same_twice(name, data_dir):
    for draft, again in zip(each_draft(name, data_dir), each_draft(name, data_dir), strict=True):
        sizes = []
        for number in range(min(draft.most, 8) + 1):
            example = draft.example(number)
            sizes.append(sum(high - low for low, high in example.documents))
            # Asked for in another order.
            assert again.example(min(draft.most, 8)).user == draft.example(min(draft.most, 8)).user
            assert again.example(number).user == example.user
            assert again.example(number).truth == example.truth
        assert sizes == sorted(set(sizes)) or draft.most == 0


@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_are_accepted_and_score_in_full(name, data_dir):
    for example in each_record(name, data_dir):
        # QuALITY's articles say nothing of where their answers are.
        assert (len(example.targets) > 0) == (name != "quality")
        if not len(example.targets):
            continue
        reward = demonstration_reward(example, TOKENIZER)
        assert (reward.answer, reward.exact_match) == (pytest.approx(1.0), 1.0)
        assert reward.total == pytest.approx(1.0, abs=1e-6)


def right_answer(name: str, example) -> str:
    if example.demonstrate is None:
        return example.truth["answers"][0]
    return example.demonstrate(generator("words", 0, 0)).answer


@pytest.mark.parametrize("name", NAMES)
def test_the_right_answer_scores_one_and_an_empty_one_nothing(name, data_dir):
    dataset = find(name)
    (metric,) = metric_functions(dataset)
    for draft in each_draft(name, data_dir):
        example = draft.example(min(2, draft.most))
        gold = tuple(example.user[low:high] for low, high in example.gold)
        fields = {**example.truth, "gold_documents": gold}
        truth, answer = ground_truth(name, fields), right_answer(name, example)
        for rule in SETTINGS.values():
            assert dataset.score(answer, gold, truth, rule) == pytest.approx(1.0)
            assert dataset.score("", (), truth, rule) == 0.0
            if dataset.exact_match is not None:
                assert dataset.exact_match(answer, gold, truth, rule) == 1.0
                assert dataset.exact_match("", (), truth, rule) == 0.0
        thought = "".join(f"<|start_recall|>{span}<|end_recall|>" for span in gold)
        right = metric([fields], [f"{thought}</think>\nAnswer: {answer}"])
        empty = metric([fields], [""])
        assert list(right) == list(empty) == list(dataset.metrics)
        assert all(value == pytest.approx(100.0) for value in right.values())
        assert all(value == 0.0 for value in empty.values())


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_one_error_that_says_where_to_get_them(name, tmp_path):
    source = find(name).source
    if source is None:
        return
    for split in SPLITS:
        with pytest.raises(TaskInputError, match=r"needs files: set config\.data\.dir to the f"):
            find(name).draft(settings(name, ""), split, 0, 0, 0)
        with pytest.raises(TaskInputError) as caught:
            find(name).draft(settings(name, str(tmp_path)), split, 0, 0, 0)
        assert f"config.data.dir = {str(tmp_path)!r} has no " in str(caught.value)
        assert f"get it from {source.where}" in str(caught.value)
        # Banking77 looks for the demos first, which are training rows.
        looked_for = "train" if name == "banking77" else split
        assert source.files.get(looked_for, source.files["train"])[0] in str(caught.value)
