"""Records from every source are the same, and those that fit no batch are refused by name."""

import dataclasses
import json
from itertools import islice

import numpy as np
import pytest

from decoding.errors import DecodingInputError
from recallm_jax import prepare
from recallm_jax.config.load import load_config
from recallm_jax.data.arrays import check_demonstrations, demonstrations, prompts_and_texts
from recallm_jax.data.records import train_records, validation_records
from recallm_jax.runtime.errors import UserError
from storage.errors import InputError
from tasks.datasets.registry import DATASETS
from tasks.errors import DemonstrationError, TaskInputError
from tasks.prompts.record import Record, write_jsonl
from tasks.prompts.vocabulary import Tokenizer

ARGUMENTS = ["--config=configs/quickstart.py:tiny", "--config.data.source=generated"]


@pytest.fixture(scope="module")
def records(tokenizer) -> list[Record]:
    return list(islice(train_records(load_config(ARGUMENTS), tokenizer, 0), 6))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    assert prepare.main([*ARGUMENTS, f"--out={folder}", "--num_train=6"]) == 0
    return folder


def config_of(source: str):
    return load_config([ARGUMENTS[0], f"--config.data.source={source}"])


def assert_same(first: Record, second: Record):
    for field in dataclasses.fields(Record):
        np.testing.assert_equal(getattr(first, field.name), getattr(second, field.name))


def test_data_sets_that_are_not_evaluated_get_no_validation_prompts(tmp_path):
    named = "--config.evaluation.datasets=math_retrieval"
    assert prepare.main([*ARGUMENTS, named, f"--out={tmp_path}", "--num_train=4"]) == 0
    files = {path.name for path in tmp_path.glob("*.jsonl")}
    assert files == {"train.jsonl", "recallm_math_retrieval_val_256.jsonl"}


def test_prepared_files_hold_the_generated_records(prepared, records, tokenizer):
    config = config_of(f"jsonl:{prepared}/train.jsonl")
    # The file is read again from its start when it ends.
    read = list(islice(train_records(config, tokenizer, 0), 8))
    for got, expected in zip(read, [*records, *records[:2]], strict=True):
        assert_same(got, expected)
    generated = validation_records(load_config(ARGUMENTS), tokenizer, "math_retrieval", 256)
    written = validation_records(config, tokenizer, "math_retrieval", 256)
    for got, expected in zip(written, generated, strict=True):
        assert_same(got, expected)


class OwnError(TaskInputError):
    """An error such as a script of a user's own defines."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [TaskInputError, UserError, DecodingInputError, OwnError])
def test_an_error_that_a_user_can_mend_is_one_line_from_seqios_threads_too(
    kind, tokenizer, monkeypatch
):
    def draft(*arguments):
        try:
            raise DemonstrationError("an earlier one")
        except DemonstrationError as error:
            raise kind("rows.txt: line 3 is empty; fill it") from error

    broken = dataclasses.replace(DATASETS["retrieval"], draft=draft)
    monkeypatch.setitem(DATASETS, "retrieval", broken)
    with pytest.raises(InputError) as caught:
        validation_records(config_of("seqio"), tokenizer, "retrieval", 256)
    assert str(caught.value) == "rows.txt: line 3 is empty; fill it"


@pytest.mark.filterwarnings("ignore")
def test_any_other_error_in_seqios_threads_keeps_its_traceback(tokenizer, monkeypatch):
    def draft(*arguments):
        raise ValueError("a fault")

    broken = dataclasses.replace(DATASETS["retrieval"], draft=draft)
    monkeypatch.setitem(DATASETS, "retrieval", broken)
    with pytest.raises(Exception, match=r"Traceback[\s\S]*ValueError: a fault") as caught:
        validation_records(config_of("seqio"), tokenizer, "retrieval", 256)
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize("start", [1, 4])
def test_a_stream_from_a_later_start_continues_the_whole(records, tokenizer, start):
    for got, expected in zip(
        train_records(load_config(ARGUMENTS), tokenizer, start), records[start:], strict=False
    ):
        assert_same(got, expected)


@pytest.mark.parametrize("source", ["generated", "jsonl:{}/train.jsonl"])
def test_hosts_make_their_own_rows_of_each_batch(source, prepared, tokenizer):
    config = config_of(source.format(prepared))

    def ids(start, **part):
        records = islice(train_records(config, tokenizer, start, **part), 8)
        return [record.example_id for record in records]

    # Batches of four from the third record on: 2 to 5, 6 to 9. The file starts over after six.
    whole = ids(2)
    assert ids(2, rows=[0, 2], size=4)[:4] == [whole[0], whole[2], whole[4], whole[6]]
    assert ids(2, rows=[1, 3], size=4)[:4] == [whole[1], whole[3], whole[5], whole[7]]


def test_files_of_another_tokenizer_are_refused(prepared, tokenizer):
    changed = json.loads(tokenizer.to_json())
    del changed["model"]["merges"][100:]
    other = Tokenizer(
        json.dumps(changed), chat_template=tokenizer.chat_template, eos_token=tokenizer.eos_token
    )
    config = config_of(f"jsonl:{prepared}/train.jsonl")
    with pytest.raises(UserError, match="was tokenised by another tokenizer than the model's"):
        next(train_records(config, other, 0))


def test_prepared_files_are_read_with_the_data_settings_that_made_them(prepared, tokenizer):
    source = f"--config.data.source=jsonl:{prepared}/train.jsonl"
    config = load_config([ARGUMENTS[0], source, "--config.data.value_length=9"])
    with pytest.raises(UserError, match=r"config\.data\.value_length = 6, not 9; prepare it again"):
        next(train_records(config, tokenizer, 0))
    # Settings that the records do not depend on may differ.
    others = ["--config.seed=5", "--config.decoding.max_new_tokens=90", "--config.grpo.steps=1"]
    next(train_records(load_config([ARGUMENTS[0], source, *others]), tokenizer, 0))


def test_prepare_never_mixes_two_configs_in_a_folder(prepared, capsys):
    again = [*ARGUMENTS, f"--out={prepared}", "--num_train=6"]
    assert prepare.main([*again, "--config.seed=1"]) == 2
    assert "was made with config.seed = 0, not 1" in capsys.readouterr().err
    assert prepare.main(again) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "nqx"}, "dataset 'nqx' is unknown; use one of retrieval"),
        ({"inputs": np.array([99_999])}, "inputs holds the token 99999, but the model's tokenizer"),
        ({"targets": np.array([-1])}, "targets holds the token -1"),
        ({"copyable": np.zeros(1, bool)}, "has no copyable token"),
        ({"span_end": np.zeros(1, bool)}, "can't be trained on: .* is not in the copyable"),
    ],
)
def test_a_record_that_does_not_fit_the_model_is_named(
    records, tokenizer, tmp_path, change, message
):
    fields = {
        name: np.resize(value, len(getattr(records[1], name))) if name != "dataset" else value
        for name, value in change.items()
    }
    write_jsonl(tmp_path / "train.jsonl", [records[0], dataclasses.replace(records[1], **fields)])
    with pytest.raises(InputError, match=rf"train\.jsonl, line 2: .*{message}"):
        next(train_records(config_of(f"jsonl:{tmp_path}/train.jsonl"), tokenizer, 0))


def test_too_few_validation_records_are_refused(prepared, tokenizer):
    config = config_of(f"jsonl:{prepared}/train.jsonl")
    config.evaluation.num_examples = 3
    with pytest.raises(UserError, match=r"holds 2 records, evaluation\.num_examples asks for 3"):
        validation_records(config, tokenizer, "retrieval", 256)


def test_a_prompt_that_is_too_long_or_has_nothing_to_copy_is_refused(records):
    with pytest.raises(UserError, match=r"has \d+ tokens, more than the 100 there is room for"):
        prompts_and_texts(records, 100)
    nothing = dataclasses.replace(records[1], copyable=np.zeros_like(records[1].copyable))
    with pytest.raises(UserError, match=f"{records[1].example_id} has no copyable token"):
        prompts_and_texts([records[0], nothing], 256)


def test_padding_never_counts_as_a_token(records):
    prompts, texts = prompts_and_texts(records, 300)
    for row, record in enumerate(records):
        length = len(record.inputs)
        assert prompts.lengths[row] == length and texts[row].prompt == record.prompt
        np.testing.assert_array_equal(prompts.tokens[row, :length], record.inputs)
        assert not prompts.copyable[row, length:].any()


def test_demonstrations_are_padded_and_long_ones_are_left_out(records):
    tokens, lengths = demonstrations(records, 200)
    for row, record in enumerate(records):
        np.testing.assert_array_equal(tokens[row, 0, : lengths[row, 0]], record.targets)
        assert not tokens[row, 0, lengths[row, 0] :].any()
    sizes = [len(record.targets) for record in records]
    most = sorted(sizes)[2]
    tokens, lengths = demonstrations(records, most)
    assert lengths[:, 0].tolist() == [size if size <= most else 0 for size in sizes]
    assert not tokens[lengths == 0].any()


def test_a_cold_start_without_demonstrations_or_with_long_ones_is_refused(records):
    check_demonstrations(records, 200)
    check_demonstrations([], 200)
    with pytest.raises(UserError, match=r"the 20 there is room for; raise decoding.max_new_tokens"):
        check_demonstrations(records, 20)
    bare = [dataclasses.replace(record, targets=record.targets[:0]) for record in records]
    check_demonstrations([*bare, records[0]], 200)
    with pytest.raises(UserError, match="none of the first 6 training records has a demonstration"):
        check_demonstrations(bare, 200)
