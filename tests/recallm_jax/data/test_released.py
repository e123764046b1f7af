"""The release's data set as a source of records, and traces for the cold start."""

import json

import pytest

from recallm_jax.config.load import load_config
from recallm_jax.data.records import train_records, validation_records
from recallm_jax.data.released import read_trace_records, trace_records
from recallm_jax.data.settings import task_settings
from recallm_jax.policy.setup import set_up
from recallm_jax.policy.tiny import tiny_tokenizer
from recallm_jax.runtime.errors import UserError
from recallm_jax.training.preflight import check_records
from recallm_jax.training.stages import SFT_STAGES, plan_stages
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


def config_of(folder, *overrides):
    return load_config(
        [
            *ARGUMENTS,
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


def test_too_few_rows_are_one_clear_error(folder):
    config = config_of(folder, "evaluation.num_examples=9")
    with pytest.raises(UserError, match=r"has 8 usable rows of 8 .*num_examples asks for 9"):
        validation_records(config, TOKENIZER, "retrieval", 4096)
    config = config_of(folder, "data.target_length=128")
    write(folder / "retrieval" / "train.jsonl", [row("retrieval", "long " * 300, "x")])
    # Files are read once a process.
    other = folder / "other"
    write(other / "retrieval" / "train.jsonl", [row("retrieval", "long " * 300, "x")])
    config = config_of(other, "data.target_length=128")
    with pytest.raises(UserError, match=r"no row of 32 .*target_length is 128"):
        next(train_records(config, TOKENIZER, 0))


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
    assert "2 of 4 traces left out" in caplog.text
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
