"""The probe of a policy: forced copies are allowed, counts add up, interruptions lose nothing."""

import json

import numpy as np
import pytest

from recallm_jax import probe, report
from recallm_jax.config.load import load_config
from recallm_jax.data.settings import task_settings
from recallm_jax.evaluation.loop import Evaluated
from recallm_jax.evaluation.probe import (
    format_probe,
    make_probes,
    read_summary,
    run_probe,
    summarise,
)
from recallm_jax.policy.modes import span_rules
from recallm_jax.policy.tiny import tiny_tokenizer
from recallm_jax.reporting.probe import probe_chart, write_probe_figure
from recallm_jax.reporting.svg import draw_svg
from recallm_jax.runtime.errors import UserError
from tasks import generate
from tests.oracles.consoles import Listening, toy_context
from tests.oracles.span_oracle import OraclePrompt, allowed_tokens
from tests.oracles.toy_policy import IndifferentPolicy

CONFIG = "--config=configs/eval_lost_in_thought.py:tiny"
TOKENIZER = tiny_tokenizer()


def config_of(*overrides):
    """Return the tiny config with three examples in batches of two: the last batch is padded."""
    return load_config([CONFIG, "--config.probe.num_examples=3", *overrides])


def run(folder, config, progress=None):
    policy = IndifferentPolicy()
    context = toy_context(config, Listening(watch=progress))
    return run_probe(config, context, policy, Evaluated("start", "start", folder))


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe") / "start"
    return folder, run(folder, config_of())


def rows_of(folder, tokens):
    lines = (folder / f"thought_{tokens}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_forced_starts_of_spans_are_copies_that_the_rules_allow():
    config = config_of()
    rules = span_rules(config, TOKENIZER)
    records = [
        generate.record("retrieval", TOKENIZER, task_settings(config), "validation", 0, index)
        for index in range(4)
    ]
    for item in make_probes(records, TOKENIZER, config, 64):
        record, prefix = item.record, item.prefixes["recall"]
        prompt = OraclePrompt(
            *(
                getattr(record, name).tolist()
                for name in ("inputs", "copyable", "span_start", "span_end")
            )
        )
        for place, token in enumerate(prefix):
            assert token in allowed_tokens(prompt, prefix[:place], rules, budget=60)


def test_every_example_has_a_row_of_each_variant_and_spans_are_verbatim(probed):
    folder, _ = probed
    for tokens, first in ((0, "direct"), (64, "thought"), (96, "thought")):
        rows = rows_of(folder, tokens)
        wanted = {first, "recall", "cued", "recall_unaided"}
        assert len(rows) == 12
        for number in range(3):
            of_example = rows[4 * number : 4 * number + 4]
            assert {row["variant"] for row in of_example} == wanted
            assert len({row["example_id"] for row in of_example}) == 1
        for row in rows:
            assert row["reasoning_tokens"] == len(TOKENIZER.encode(row["thought"])) == tokens
            assert row["response"].startswith(row["prefix"])
            assert row["prompt"].endswith("<think>\n")
            assert bool(row["spans"]) == (row["variant"] in ("recall", "recall_unaided"))
            for span in row["spans"]:
                assert span["verbatim"]
                low, high = span["occurrences"][0]["chars"]
                assert row["prompt"][low:high] == span["text"]
                low, high = span["response_chars"]
                assert row["response"][low:high] == span["text"]


def test_a_policy_that_copies_on_is_right_only_after_a_copied_key(probed):
    """Its span goes on with the text after the copied key; elsewhere it writes token 0."""
    folder, summaries = probed
    for tokens in (0, 64, 96):
        for row in rows_of(folder, tokens):
            if row["variant"] == "recall":
                assert row["right"] and row["read"] == row["value"]
            elif row["variant"] != "recall_unaided":
                assert not row["right"]
    shares = {row["variant"]: row["accuracy"] for row in summaries}
    assert shares["recall"] == 1 and shares["direct"] == shares["thought"] == shares["cued"] == 0


def test_the_summary_counts_right_rows():
    spans = [{"verbatim": True}, {"verbatim": False}]
    rows = [
        {
            "label": "start",
            "variant": "recall",
            "reasoning_tokens": 64,
            "target_length": 256,
            "right": number < 3,
            "spans": spans if number == 0 else [],
        }
        for number in range(4)
    ]
    summary = summarise(rows)
    # Wilson by hand for 3 of 4, z = 1.96: centre (0.75 + 0.4802) / 1.9604 = 0.62752,
    # half 1.96 sqrt(0.046875 + 0.060025) / 1.9604 = 0.32688.
    assert (summary.pop("low"), summary.pop("high")) == pytest.approx((0.30064, 0.95441), abs=1e-4)
    assert summary == {
        "label": "start",
        "variant": "recall",
        "reasoning_tokens": 64,
        "target_length": 256,
        "n": 4,
        "right": 3,
        "accuracy": 0.75,
        "spans": 2,
        "verbatim_spans": 1,
    }
    table = format_probe([summarise(rows)]).splitlines()
    assert " ".join(table[1].split()) == "start recall 64 4 75.0 % 30.1 to 95.4 % 1/2"


def test_an_interrupted_probe_goes_on_where_it_stopped(probed, tmp_path):
    folder, summaries = probed
    config = config_of()

    def interrupted(items, title, *, total, done):
        assert total == 3
        for number, item in enumerate(items, done):
            if "64" in title and number == 2:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, progress=interrupted)
    path = tmp_path / "thought_64.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 8
    # Two whole rows of the last example and part of a third, as if it stopped while writing.
    following = (folder / "thought_64.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line.replace("{", '{"kept": true, ', 1) for line in lines]
    path.write_text("".join([*kept, *following[8:10], following[10][:80]]), encoding="utf-8")

    assert run(tmp_path, config) == summaries
    rows = rows_of(tmp_path, 64)
    assert [row.pop("kept", False) for row in rows] == 8 * [True] + 4 * [False]
    for tokens in (0, 64, 96):
        same = rows if tokens == 64 else rows_of(tmp_path, tokens)
        assert same == rows_of(folder, tokens)
    # Nothing is left to do, and fewer examples are counted from the rows that are there.
    fewer = run(tmp_path, config_of("--config.probe.num_examples=2"))
    assert {row["n"] for row in fewer} == {2}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.probe.target_length=200", "probe.target_length = 256, not 200"),
        ("--config.data.value_length=5", "data.value_length = 6, not 5"),
        ("--config.decoding.copy_source=prompt+response", "thoughts can't be copied from"),
        ("--config.probe.reasoning_tokens=(400,)", "exceeds the model's context of 512; lower"),
    ],
)
def test_a_config_that_does_not_fit_the_folder_is_refused(probed, override, message):
    folder, _ = probed
    with pytest.raises(UserError) as caught:
        run(folder, config_of(override))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_another_file_are_refused(probed, tmp_path):
    folder, _ = probed
    text = (folder / "thought_96.jsonl").read_text(encoding="utf-8")
    (tmp_path / "thought_64.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"thought_64\.jsonl, line 1 is not a row of this file"):
        run(tmp_path, config_of())


@pytest.mark.parametrize("content", ["{", "[]", '[{"label": "start"}]', "7"])
def test_a_damaged_summary_is_named(tmp_path, content):
    path = tmp_path / "probe" / "start" / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        read_summary(path)


def test_the_curve_shows_each_point_and_its_length(probed, tmp_path):
    _, summaries = probed
    chart = probe_chart(summaries, "start")
    svg = draw_svg(chart)
    assert len(chart.series) == 5
    # One point of `direct`, two of `thought`, three of each other variant.
    assert svg.count("<circle") == svg.count('class="whisker"') == 12
    assert "after a thought, 64: 0.0 %" in svg
    assert "in a recall span, key copied, 96: 100.0 %" in svg
    path = tmp_path / "new" / "curve.png"
    write_probe_figure(summaries, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_job_runs_from_its_command_and_the_report_shows_it(tmp_path, capsys):
    command = [CONFIG, f"--workdir={tmp_path}", "--config.probe.reasoning_tokens=(64,)"]
    figure = tmp_path / "curve.png"
    assert probe.main([*command, f"--figure={figure}"]) == 0
    speeds, _, table = capsys.readouterr().out.strip().rpartition("\n\n")
    assert speeds.count(" tokens a second") == len(speeds.splitlines()) == 2
    table = table.splitlines()
    assert len(table) == 1 + 8
    assert figure.exists()
    folder = tmp_path / "probe" / "start"
    assert json.loads((folder / "machine.json").read_text())["date"]
    assert np.mean([row["n"] for row in read_summary(folder / "summary.json")]) == 2
    before = {path: path.read_bytes() for path in folder.glob("*.jsonl")}
    assert probe.main(command) == 0
    assert {path: path.read_bytes() for path in folder.glob("*.jsonl")} == before
    page = report.build_report(tmp_path).read_text(encoding="utf-8")
    assert "Lost in thought" in page and "start, prompts of 256 tokens, n = 2" in page
    assert "No evaluation has been written yet." in page


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_work(tmp_path, capsys):
    assert probe.main([CONFIG, f"--workdir={tmp_path}", "--figure=curve.docx"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --figure=curve.docx must end in a kind of picture")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_checkpoint_has_none_to_probe(tmp_path, capsys):
    assert probe.main([CONFIG, f"--workdir={tmp_path}", "--checkpoint"]) == 2
    assert "holds no checkpoint of the stages" in capsys.readouterr().err
