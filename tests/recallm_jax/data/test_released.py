"""The release's data set as a source of records, and traces for the cold start."""

import dataclasses
import json
import re

import pytest

from recallm_jax import evaluate, train
from recallm_jax.config.load import load_config
from recallm_jax.data.records import check_data, train_records, validation_records
from recallm_jax.data.released import read_trace_records, shared_questions, trace_records
from recallm_jax.data.settings import task_settings
from recallm_jax.evaluation.tasks import evaluation_tasks
from recallm_jax.policy.setup import check_lengths, set_up
from recallm_jax.policy.tiny import tiny_sizes, tiny_tokenizer
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.preflight import check_records
from recallm_jax.training.stages import SFT_STAGES, plan_stages
from tasks.errors import TaskInputError
from tasks.generate import record
from tasks.prompts.record import to_json
from tests.tasks.sources.test_release import row, trace

TOKENIZER = tiny_tokenizer()
ARGUMENTS = ["--config=configs/quickstart.py:tiny", "--config.evaluation.lengths=(4096,)"]


def retrieval(number):
    """A row whose prompt asks for one of three values."""
    pairs = [f"Key {k}:\nvalue{number}{k}" for k in range(3)]
    user = "\n".join([*pairs, f"What is key {number % 3}?"])
    return row("retrieval", user, f"value{number}{number % 3}", [pairs[number % 3]])


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "retrieval" / "train.jsonl", map(retrieval, range(20)))
    write(tmp_path / "retrieval" / "val_4k.jsonl", map(retrieval, range(20, 28)))
    return tmp_path


def config_of(folder, *overrides, lengths=(4096,)):
    return load_config(
        [
            ARGUMENTS[0],
            f"--config.evaluation.lengths={lengths}",
            f"--config.data.source=release:{folder}",
            "--config.data.mixture.math_retrieval=0.0",
            *(f"--config.{override}" for override in overrides),
        ]
    )


def test_training_records_are_drawn_and_validation_comes_first_to_last(folder):
    config = config_of(folder, "evaluation.num_examples=5")
    stream = train_records(config, TOKENIZER, 0, rows=(0, 1), size=2)
    drawn = [next(stream) for _ in range(20)]
    # An endless shuffle: each row once before any repeats.
    assert len({one.prompt for one in drawn}) == 20
    later = train_records(config, TOKENIZER, 4, rows=(1,), size=2)
    assert to_json(next(later)) == to_json(drawn[5])
    shown = validation_records(config, TOKENIZER, "retrieval", 4096)
    asked = [one.ground_truth["answers"] for one in shown]
    assert asked == [[f"value{n}{n % 3}"] for n in range(20, 25)]
    assert shown[0].example_id == "recallm_retrieval_val_4k/0"


def test_a_split_gives_the_rows_that_it_has_and_says_so(folder, caplog):
    write(folder / "retrieval" / "val_8k.jsonl", [retrieval(1), row("nq", "x", "x")])
    config = config_of(folder, "evaluation.num_examples=9")
    assert len(validation_records(config, TOKENIZER, "retrieval", 4096)) == 8
    # Once a process: the data are read before a run and in it.
    assert len(validation_records(config, TOKENIZER, "retrieval", 8192)) == 1
    assert len(validation_records(config, TOKENIZER, "retrieval", 8192)) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "retrieval val_4k of the release has 8 usable rows of 8 (no more), not 9",
        "retrieval val_8k of the release has 1 usable rows of 2 (a row of 'nq', not of retrieval "
        "(1)), not 9",
    ]


def test_a_split_without_usable_rows_is_one_clear_error(folder):
    write(folder / "retrieval" / "val_8k.jsonl", [])
    with pytest.raises(
        UserError, match=r"has 0 usable rows of 0 .*; download it again, or set .*retrieval=0\.0"
    ):
        validation_records(config_of(folder), TOKENIZER, "retrieval", 8192)


def test_validation_prompts_may_be_an_eighth_longer_than_their_split(folder):
    def record_of(words):
        split = folder / str(words)
        write(split / "retrieval" / "val_4k.jsonl", [row("retrieval", "x " * words, "x")])
        (record,) = validation_records(config_of(split), TOKENIZER, "retrieval", 4096)
        return record

    assert 4096 < len(record_of(4300).inputs) < 4608
    with pytest.raises(UserError, match=r"0 usable rows of 1 \(a prompt of more than 4608 tokens"):
        record_of(4700)


def test_longer_prompts_of_the_release_must_fit_the_models_context(folder):
    lengths = (32_768,)
    sizes = dataclasses.replace(tiny_sizes(config_of(folder)), max_positions=36_864 + 256)
    check_lengths(config_of(folder, "decoding.max_new_tokens=256", lengths=lengths), sizes)
    config = config_of(folder, "decoding.max_new_tokens=257", lengths=lengths)
    with pytest.raises(
        UserError, match=r"evaluation.lengths = 32768 \(of the release up to 36864 tokens\) with"
    ):
        check_lengths(config, sizes)


def test_training_rows_that_do_not_fit_are_one_clear_error(folder):
    write(folder / "other" / "retrieval" / "train.jsonl", [row("retrieval", "long " * 300, "x")])
    config = config_of(folder / "other", "data.target_length=128")
    with pytest.raises(UserError, match=r"no row of 32 .*of more than 128 tokens; raise .*target"):
        next(train_records(config, TOKENIZER, 0))


def test_splits_that_a_set_of_fixed_length_lacks_are_left_out_in_one_line(folder, caplog):
    write(folder / "quality" / "val_4k.jsonl", [])
    write(folder / "quality" / "val_8k.jsonl", [])
    quality, no_other = "data.mixture.quality=1.0", "data.mixture.retrieval=0.0"
    lengths = (4096, 8192, 16_384, 131_072)
    config = config_of(folder, quality, no_other, lengths=lengths)
    check_data(config, TOKENIZER)
    names = [task.name for task in evaluation_tasks(config)]
    assert names == ["recallm_quality_val_4k", "recallm_quality_val_8k"]
    assert caplog.messages == [
        "left out, as the release has no such prompts: quality 16384, quality 131072"
    ]
    config = config_of(folder, quality, lengths=lengths)
    with pytest.raises(TaskInputError, match=r"has no retrieval/val_8k\*.parquet"):
        check_data(config, TOKENIZER)
    config = config_of(folder, "data.mixture.dapo_math=1.0", no_other, lengths=(8192,))
    with pytest.raises(UserError, match="the release has no prompts of dapo_math 8192; add 4096"):
        check_data(config, TOKENIZER)


def test_questions_that_training_and_validation_share_are_counted_and_said(folder, caplog):
    def asked(number):
        raw = row("nq", f"Text. Question {number}?", "x")
        raw["extra_info"] |= {"question": f"Question {number}?", "question_id": None}
        return raw

    write(folder / "nq" / "train.jsonl", map(asked, [1, 2, 2, 3, 4]))
    write(folder / "nq" / "val_4k.jsonl", map(asked, [2, 3, 7]))
    config = config_of(folder, "data.mixture.nq=1.0", "data.mixture.retrieval=0.0")
    assert shared_questions(config, "nq") == 2
    # These rows ask the same words of different contexts.
    same = [retrieval(n) | {"extra_info": {"question": "Which?"}} for n in (1, 2)]
    for number, split in enumerate(("train", "val_4k")):
        write(folder / "made" / "retrieval" / f"{split}.jsonl", same[number : number + 1])
    assert shared_questions(config_of(folder / "made"), "retrieval") == 0
    check_records(config, TOKENIZER, [])
    check_records(config, TOKENIZER, [])
    assert caplog.text.count("questions for validation that the release asks in training") == 1
    assert "in training too: nq 2" in caplog.text


TRACES = [
    trace("I look. <recall>built by Ines Roth</recall>\n</think>\nAnswer: Ines Roth"),
    trace("<recall>by nobody</recall></think> x"),
    trace("Red. <recall>It is red.</recall>\n</think>\nAnswer: red"),
    {"prompt": [], "completion": "x"},
]


def test_traces_take_the_place_of_demonstrations(tmp_path, caplog):
    path = tmp_path / "traces.jsonl"
    write(path, TRACES)
    config = load_config([*ARGUMENTS, f"--config.data.traces={path}"])
    records = read_trace_records(config, TOKENIZER)
    assert [one.example_id for one in records] == ["trace/1", "trace/3"]
    read_trace_records(config, TOKENIZER)
    assert caplog.text.count("2 of 4 traces left out") == 1
    stream = trace_records(config, TOKENIZER, 0, rows=(0, 1), size=2)
    passes = [[next(stream).example_id for _ in range(2)] for _ in range(8)]
    assert all(sorted(one) == ["trace/1", "trace/3"] for one in passes)
    assert len({tuple(one) for one in passes}) == 2
    # The run is checked before it starts, and the demonstrations of its records are not needed.
    changes = ["--config.data.source=generated", "--config.decoding.max_new_tokens=50"]
    config = load_config([ARGUMENTS[0], f"--config.data.traces={path}", *changes])
    context = set_up(config)
    stages = [stage for stage in plan_stages(config, context) if stage.name in SFT_STAGES]
    check_records(config, context.tokenizer, stages)
    without = load_config([ARGUMENTS[0], *changes])
    with pytest.raises(UserError, match="more than the 50 there is room for"):
        check_records(without, context.tokenizer, stages)


def test_traces_of_which_none_can_be_used_are_one_clear_error(tmp_path):
    path = tmp_path / "traces.jsonl"
    write(path, TRACES[1:2])
    config = load_config([*ARGUMENTS, f"--config.data.traces={path}"])
    with pytest.raises(UserError, match=r"has no usable trace: a span that its prompt does not"):
        read_trace_records(config, TOKENIZER)


def test_a_file_of_traces_that_is_not_there_is_named_with_its_field(tmp_path):
    config = load_config([*ARGUMENTS, f"--config.data.traces={tmp_path}/nope.jsonl"])
    with pytest.raises(UserError, match=r"config.data.traces = '.*nope.jsonl': .*; give a file of"):
        read_trace_records(config, TOKENIZER)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "can't be read"),
        ("Be brief.<|im_end|>", r"holds the token <\|im_end\|>, which would end or begin a turn"),
        ("<|im_start|>user", r"holds the token <\|im_start\|>"),
    ],
)
@pytest.mark.parametrize("job", [evaluate, train])
def test_a_bad_system_prompt_is_one_line_that_begins_with_its_field(
    job, text, reason, tmp_path, capsys
):
    path = tmp_path / "system.txt"
    if text is not None:
        path.write_text(text)
    arguments = [ARGUMENTS[0], f"--config.data.system_prompt={path}", "--config.mesh.fsdp=1"]
    assert job.main([*arguments, f"--workdir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(rf"error: config.data.system_prompt = '{path}' {reason}", error)


def test_a_system_prompt_may_name_recall_and_thoughts(tmp_path):
    path = tmp_path / "system.txt"
    path.write_text("Recall with <|start_recall|>, after <think>.")
    check_data(load_config([*ARGUMENTS, f"--config.data.system_prompt={path}"]), TOKENIZER)


def test_the_system_prompt_is_a_file_or_none(tmp_path):
    path = tmp_path / "system.txt"
    path.write_text("Answer in one word.\n")
    own = load_config([*ARGUMENTS, f"--config.data.system_prompt={path}"])
    none = load_config(
        [*ARGUMENTS, "--config.data.system_prompt=none", "--config.data.thinking=False"]
    )
    made = record("retrieval", TOKENIZER, task_settings(own), "validation", 0, 0)
    assert "Answer in one word.<|im_end|>" in made.prompt and "recall" not in made.prompt
    # The demonstration is of the prompt that is shown.
    assert len(made.targets)
    bare = record("retrieval", TOKENIZER, task_settings(none), "validation", 0, 0)
    assert "system" not in bare.prompt and not bare.prompt.endswith("<think>\n")
    # Its demonstration answers at once.
    (answer,) = bare.ground_truth["answers"]
    assert TOKENIZER.decode(bare.targets.tolist()) == f"Answer: {answer}<|im_end|>"
    missing = load_config([*ARGUMENTS, "--config.data.system_prompt=no_such_file.txt"])
    with pytest.raises(UserError, match=r"config.data.system_prompt = 'no_such_file.txt' can't be"):
        task_settings(missing)
