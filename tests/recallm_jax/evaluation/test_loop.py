"""Evaluation: the content of rows, the counts of summaries, and going on after a stop."""

import dataclasses
import math
import re

import numpy as np
import pytest

from decoding.compilations import count_compilations
from decoding.decode_loop import SAMPLED, Limits
from decoding.driver import decode
from decoding.sampling import Sampling, row_keys
from recallm_jax.config.load import load_config
from recallm_jax.data.arrays import prompts_and_texts
from recallm_jax.data.records import validation_records
from recallm_jax.evaluation.files import read_rows
from recallm_jax.evaluation.loop import Evaluated, evaluate
from recallm_jax.evaluation.rows import Answered, response_rows
from recallm_jax.evaluation.summaries import averages, format_table, summarise
from recallm_jax.policy.modes import sampling_of, span_rules
from recallm_jax.policy.setup import set_up
from recallm_jax.runtime.errors import UserError
from rl import rollout_text
from rl.rollout_text import read_rollout
from tests.oracles.consoles import Listening, toy_context
from tests.oracles.reward_rules import EVAL
from tests.oracles.toy_policy import IndifferentPolicy, ToyPolicy, random_toy_policy

NUM_ROWS = 768
CONFIG = [
    "--config=configs/quickstart.py:tiny",
    "--config.data.source=generated",
    "--config.decoding.max_new_tokens=24",
    "--config.evaluation.num_examples=3",
    "--config.evaluation.samples=2",
    "--config.evaluation.modes=('constrained-greedy','unconstrained-sampled')",
]
ONE_MODE = [*CONFIG[:-1], "--config.evaluation.modes=('constrained-sampled',)"]

SPEED = re.compile(
    r"toy: (?P<task>\w+) constrained-sampled: (?P<prompts>\d+) prompts in [\d.]+ s: "
    r"(?P<rate>\S+) prompts and (?P<tokens>\S+) tokens a second"
)


@pytest.fixture(scope="module")
def config():
    return load_config(CONFIG)


@pytest.fixture(scope="module")
def record(config, tokenizer):
    return validation_records(config, tokenizer, "retrieval", 256)[0]


def rows_of(texts, record, config, tokenizer):
    """Return the rows of given responses, whatever the policy would write."""
    written = [[*tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    length = max(map(len, written))
    padded = [tokens + [SAMPLED] * (length - len(tokens)) for tokens in written]
    prompts, (text,) = prompts_and_texts([record], 256)
    rules = span_rules(config, tokenizer, constrained=False)
    limits = Limits(rules, length, tokenizer.end_ids)
    given = decode(
        IndifferentPolicy(),
        prompts,
        row_keys(0, 0, np.zeros(1, np.uint32), len(texts)),
        sampling=Sampling(temperature=0.0),
        limits=limits,
        prefix=np.array([padded], np.int32),
    )
    read = read_rollout(given, limits, tokenizer.decode)
    return response_rows(Answered(record, text, read, 0), tokenizer, EVAL)


def test_a_row_holds_the_answer_and_the_places_it_was_copied_from(config, tokenizer, record):
    first, last = record.ground_truth["gold_ranges"][0]
    gold, (answer,) = record.prompt[first:last], record.ground_truth["answers"]
    before = "I recall <|start_recall|>"
    right = f"{before}{gold}<|end_recall|>.</think>\nAnswer: {answer}"
    wrong = f"{before}no such thing<|end_recall|></think>\nAnswer: {answer[::-1]}x"
    good, bad = rows_of([right, wrong], record, config, tokenizer)
    assert (good["completion"], good["answer"], good["sample"]) == (right, answer, 0)
    assert good["completion_tokens"] == len(tokenizer.encode(right)) + 1 and good["finished"]
    assert (good["exact_match"], good["reward"]) == (1.0, pytest.approx(1.0))
    (span,) = good["spans"]
    assert (span["text"], span["closed"], span["verbatim"]) == (gold, True, True)
    assert span["response_chars"] == [len(before), len(before) + len(gold)]
    assert record.prompt == good["prompt"]
    assert (bad["completion"], bad["sample"], bad["exact_match"]) == (wrong, 1, 0.0)
    (span,) = bad["spans"]
    assert (span["verbatim"], span["count"], span["occurrences"]) == (False, 0, [])


def test_the_places_of_a_span_hold_its_tokens_in_the_prompt(config, tokenizer, record):
    # Tokens from the middle of the context: the place holds their text, whatever is around it.
    copyable = np.flatnonzero(record.copyable)
    tokens = record.inputs[copyable[5:12]].tolist()
    text = f"<|start_recall|>{tokenizer.decode(tokens)}<|end_recall|>"
    assert tokenizer.encode(text)[1:-1] == tokens
    (span,) = rows_of([text], record, config, tokenizer)[0]["spans"]
    place = {
        "tokens": [int(copyable[5]), int(copyable[11]) + 1],
        "chars": [int(record.offsets[copyable[5], 0]), int(record.offsets[copyable[11], 1])],
    }
    assert place in span["occurrences"]
    assert span["verbatim"] and span["count"] == len(span["occurrences"])


class Stopped(Exception):
    """An interruption."""


def run(folder, config, *, context=None, stop_after=None, said=None):
    """Evaluate a context's policy, by default a random toy; return how many prompts it answered."""
    taken = []

    def progress(prompts, title, *, total, done):
        number = done
        for prompt in prompts:
            if len(taken) == stop_after:
                raise Stopped
            yield prompt
            taken.append(title)
            number += 1
        assert number == total

    console = Listening(said=[] if said is None else said, watch=progress)
    if context is None:
        context = toy_context(config, console)
        toy = random_toy_policy(0, NUM_ROWS)
        policy = ToyPolicy(table=toy.table.at[:, context.tokenizer.start_recall_id].add(6.0))
    else:
        context = dataclasses.replace(context, console=console)
        policy = context.policy
    evaluate(config, context, policy, Evaluated("toy", "toy step 0", folder))
    return len(taken)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    folder = tmp_path_factory.mktemp("finished")
    # 2 data sets, 2 modes, and 3 prompts.
    assert run(folder, config) == 12
    return folder


def test_a_row_is_written_for_each_response_of_each_task_and_mode(finished, config):
    for dataset in ("retrieval", "math_retrieval"):
        for mode, samples in (("constrained-greedy", 1), ("unconstrained-sampled", 2)):
            task = f"recallm_{dataset}_val_256"
            rows = read_rows(finished / f"{task}.{mode}.jsonl")
            assert len({row["example_id"] for row in rows}) == 3
            assert [row["sample"] for row in rows] == list(range(samples)) * 3
            names = ("label", "task", "mode", "dataset", "target_length")
            assert {tuple(row[name] for name in names) for row in rows} == {
                ("toy", task, mode, dataset, 256)
            }
            closed = [span for row in rows for span in row["spans"] if span["closed"]]
            if mode == "constrained-greedy":
                assert closed and all(span["verbatim"] for span in closed)


@pytest.mark.parametrize(("stop_after", "parts"), [(0, 1), (1, 1), (4, 1), (4, 2)])
def test_an_evaluation_goes_on_where_it_was_stopped(finished, tmp_path, stop_after, parts):
    # On two parts of a mesh prompts are decoded in batches of two: the stop cuts one in the middle.
    config = load_config([*CONFIG, f"--config.mesh.data={parts}"])
    with pytest.raises(Stopped):
        run(tmp_path, config, stop_after=stop_after)
    assert not (tmp_path / "summary.json").exists()
    assert run(tmp_path, config) == 12 - stop_after
    expected = contents(finished) | {"config.json": (tmp_path / "config.json").read_bytes()}
    assert contents(tmp_path) == expected
    # Nothing is left to do.
    assert run(tmp_path, config) == 0
    assert contents(tmp_path) == expected


@pytest.mark.slow
def test_rows_do_not_depend_on_the_mesh(tmp_path):
    meshes = {"one": [], "batches": ["--config.mesh.data=2"], "split": ["--config.mesh.tensor=2"]}
    rows, said = {}, []
    for name, mesh in meshes.items():
        config = load_config([*ONE_MODE, *mesh])
        folder = tmp_path / name
        run(folder, config, context=set_up(config), said=said)
        rows[name] = [row for path in sorted(folder.glob("*.jsonl")) for row in read_rows(path)]
    assert len(rows["one"]) == 2 * 3 * 2
    assert rows["batches"] == rows["split"] == rows["one"]
    one, again, *split = (int(line.split()[-3]) for line in said if "compiled" in line)
    assert (one, again) == (4, 0)
    # A program is compiled for each sharding of its arguments over two devices.
    assert sum(split) <= 8


def test_the_console_says_how_fast_prompts_were_answered_and_nothing_if_none_were(tmp_path):
    config, said = load_config(ONE_MODE), []
    run(tmp_path, config, said=said)
    speeds = [SPEED.fullmatch(line) for line in said if " tokens a second" in line]
    # In the order in which the tasks were answered.
    names = [match["task"] for match in speeds]
    assert len(names) == len(set(names)) == 2
    for match in speeds:
        rows = read_rows(tmp_path / f"{match['task']}.constrained-sampled.jsonl")
        prompts = {row["example_id"]: row["prompt_tokens"] for row in rows}
        tokens = sum(prompts.values()) + sum(row["completion_tokens"] for row in rows)
        # Of the same seconds; both rates are rounded.
        ratio = float(match["tokens"].replace(",", "")) / float(match["rate"])
        assert int(match["prompts"]) == len(prompts) == 3
        assert ratio == pytest.approx(tokens / len(prompts), rel=0.03)
    said.clear()
    run(tmp_path, config, said=said)
    assert said == []


def test_no_more_programs_are_compiled_for_more_prompts(tmp_path):
    few, more = (
        load_config([*CONFIG, f"--config.evaluation.num_examples={count}"]) for count in (3, 5)
    )
    said = []
    rollout_text._read_back.clear_cache()
    with count_compilations(rollout_text._read_back) as compiled:
        run(tmp_path / "few", few)
        programs = compiled()
        assert run(tmp_path / "more", more, said=said) == 20
        assert compiled() == programs > 0
    compiling = [line for line in said if "compiled" in line]
    assert len(compiling) == 4 and all(": 0 programs compiled" in line for line in compiling)
    assert said[0].startswith("toy: recallm_math_retrieval_val_256 constrained-greedy: bucket of")


def row(example_id, exact_match, spans=(), **fields):
    return {
        "label": "grpo",
        "task": "recallm_retrieval_val_256",
        "dataset": "retrieval",
        "target_length": 256,
        "mode": "constrained-sampled",
        "example_id": example_id,
        "prompt": f"prompt of {example_id}",
        "completion": f"</think>\nAnswer: {'x' if exact_match else 'y'}",
        "ground_truth": {"answers": ["x"]},
        "exact_match": exact_match,
        "reward": 0.5,
        "finished": True,
        "completion_tokens": 10,
        "spans": [{"closed": closed, "verbatim": verbatim} for closed, verbatim in spans],
        **fields,
    }


def test_a_summary_by_hand():
    rows = [
        row("a", 1.0, [(True, True), (True, False), (False, True)]),
        row("a", 0.0, reward=0.1, finished=False, completion_tokens=40),
        row("b", 1.0),
        row("b", 1.0, [(True, True)]),
    ]
    summary = summarise(rows)
    assert (summary["n"], summary["samples"], summary["exact_match"]) == (2, 2, 0.75)
    # Wilson's for 1.5 of 2 prompts; for 3 of 4 responses the low end would be 0.30:
    # (0.75 + 0.9604 ± 1.96 sqrt(0.09375 + 0.2401)) / 2.9208.
    interval = summary["exact_match_low"], summary["exact_match_high"]
    assert interval == pytest.approx((0.1979, 0.9733), abs=1e-4)
    assert summary["reward"] == pytest.approx(0.4)
    assert (summary["finished"], summary["completion_tokens"]) == (0.75, 17.5)
    # A span that was left open is not counted.
    assert (summary["spans"], summary["verbatim_spans"]) == (3, 2)
    assert summary["metric"] == "exact_match"
    assert summary["metrics"] == {"exact_match": 75.0, "answer_contained": 75.0}
    table = format_table([summary])
    assert "own metrics" not in table
    for cell in ("grpo", "retrieval_val_256", "75.0 %", "19.8 to 97.3 %", "0.400", "2/3"):
        assert cell in table


def test_prompts_that_ask_the_same_are_one_trial():
    def asked(example_id, question_id, exact_match):
        truth = {"answers": ["x"], "question_id": question_id}
        return row(example_id, exact_match, ground_truth=truth)

    rows = [asked(f"{n}", f"question {n % 2}", float(n % 2)) for n in range(8)]
    summary = summarise(rows)
    assert (summary["n"], summary["questions"], summary["exact_match"]) == (8, 2, 0.5)
    # Wilson's for 1 of 2; for 4 of 8 prompts it would be 0.215 to 0.785.
    interval = summary["exact_match_low"], summary["exact_match_high"]
    assert interval == pytest.approx((0.0945, 0.9055), abs=1e-4)
    header, line = format_table([summary]).splitlines()
    columns = [name for name in header.replace("95 % interval", "").split("  ") if name]
    assert [name.strip() for name in columns][3:5] == ["n", "questions"]
    assert line.split()[3:5] == ["8", "2"]


def test_averages_by_hand():
    def summary(dataset, length, value):
        names = {"label": "grpo", "mode": "m", "dataset": dataset, "target_length": length}
        asked = {"questions": 10 if length == 4096 else 8}
        return {**names, **asked, "metric": "a", "metrics": {"a": value}}

    rows = [
        *(summary("retrieval", 4096, 90.0), summary("retrieval", 65_536, 50.0)),
        *(summary("nq", 4096, 40.0), summary("triviaqa", 4096, 60.0)),
        summary("triviaqa", 131_072, 20.0),
        # The tasks of suites have averages of their own.
        summary("ruler_vt", 4096, 0.0),
    ]
    (found,) = averages(rows)
    # Each data set has ten questions at 4,096, and the others may be among them.
    assert (found["data_sets"], found["questions"], found["mode"]) == (3, 30, "m")
    assert found["metrics"] == {
        "grand": pytest.approx((70 + 40 + 40) / 3),
        "recall": 70.0,
        "single_hop_qa": 40.0,
        "short": pytest.approx((90 + 40 + 60) / 3),
        "long": 35.0,
    }
    # A single number is its own average, and without long prompts there is no such half.
    # One data set at two lengths says nothing new.
    assert averages(rows[:2]) == []
    assert list(averages([rows[0], rows[2]])[0]["metrics"]) == ["grand", "recall", "single_hop_qa"]


def test_data_sets_without_an_exact_match_show_metrics_of_their_own():
    truth = {"answers": ["2 > 1"], "grades": {"1": 1, "2": 3, "3": 0}}
    answers = ("ID2 > ID1 > ID3", "ID3 > ID1 > ID2")
    rows = [
        row(answer, 0.0, dataset="msmarco_v2", ground_truth=truth)
        | {"completion": f"</think>\nAnswer: {answer}"}
        for answer in answers
    ]
    # nDCG with linear gain: the second ranking has the grades 0, 1, 3.
    worse = (1 / math.log2(3) + 3 / 2) / (3 + 1 / math.log2(3))
    summary = summarise(rows)
    assert summary["metric"] == "ndcg_at_10"
    assert summary["metrics"]["ndcg_at_10"] == pytest.approx(50 * (1 + worse))
    table = format_table([summary, summarise([row("a", 1.0)])])
    assert f"ndcg_at_10 {50 * (1 + worse):.2f}, ranked 100.00" in table
    assert "exact_match 100.00" in table


def test_modes_decide_how_tokens_are_drawn(config):
    assert sampling_of("constrained-greedy", config) == (Sampling(temperature=0.0), True, 1)
    drawn = Sampling(temperature=0.6, top_p=0.95)
    assert sampling_of("unconstrained-sampled", config) == (drawn, False, 2)
    with pytest.raises(UserError, match="evaluation mode 'greedy' is unknown; use any of con"):
        sampling_of("greedy", config)
