"""Scores by length: pooled over runs by question, compared with the first series, and drawn."""

import pytest

from recallm_jax.evaluation.statistics import sign_test, wilson_interval
from recallm_jax.reporting.data import load_run
from recallm_jax.reporting.lengths import Answers, length_charts, length_table, series_of
from recallm_jax.runtime.errors import UserError
from tests.oracles.fake_run import LENGTHS, MODES, write_run


@pytest.fixture
def runs(tmp_path):
    found = []
    for name in ("a", "b"):
        write_run(tmp_path / name, examples=6)
        found.append(load_run(tmp_path / name))
    return found


def by_hand(run, label, mode, length):
    """Return the exact match of each retrieval prompt."""
    return {
        row["example_id"]: row["exact_match"]
        for row in run.rows
        if (row["label"], row["mode"], row["target_length"]) == (label, mode, length)
        and row["dataset"] == "retrieval"
    }


def test_a_policy_is_compared_with_the_first_one_question_by_question(runs):
    run = runs[0]
    series = series_of({"before": [Answers(run, "start")], "after": [Answers(run)]})
    assert list(series) == [f"{name}, {mode}" for name in ("before", "after") for mode in MODES]
    header, *lines = length_table(series)
    table = {tuple(line[:3]): dict(zip(header, line, strict=True)) for line in lines}
    for length in LENGTHS:
        before = by_hand(run, "start", MODES[0], length)
        after = by_hand(run, "grpo", MODES[0], length)
        line = table["retrieval", str(length), f"after, {MODES[0]}"]
        assert (line["responses"], line["questions"]) == ("6", "6")
        assert line["score"] == f"{100 * sum(after.values()) / 6:.1f} %"
        low, high = wilson_interval(sum(after.values()), 6)
        assert line["95 % interval"] == f"{100 * low:.1f} to {100 * high:.1f} %"
        gained = sum(after[name] > before[name] for name in after)
        lost = sum(after[name] < before[name] for name in after)
        assert (line["gained"], line["lost"]) == (str(gained), str(lost))
        assert float(line["p"]) == pytest.approx(sign_test(gained, lost), rel=0.05)


def test_runs_of_a_setting_are_pooled_and_a_question_counts_once(runs):
    # Both runs hold the same questions.
    series = series_of({"both": [Answers(run, "grpo") for run in runs]})
    header, *lines = length_table(series)
    assert all(line[header.index("responses")] == "12" for line in lines)
    assert all(line[header.index("questions")] == "6" for line in lines)


def test_a_suites_own_score_counts_where_it_has_one(runs):
    row = next(row for row in runs[0].rows if row["label"] == "grpo")
    halves = [row | {"score": 0.5, "exact_match": 0.0}]
    assert length_table({"vt": halves})[1][5] == "50.0 %"


def test_each_data_set_has_a_chart_with_every_series_at_its_lengths(runs):
    series = series_of({"before": [Answers(runs[0], "start")], "after": [Answers(runs[0])]})
    short = {"after": [row for row in series[f"after, {MODES[0]}"] if row["target_length"] == 640]}
    charts = length_charts(series | short)
    assert [chart.title for chart in charts] == ["math_retrieval", "retrieval"]
    for chart in charts:
        assert list(chart.x_ticks.values()) == ["320", "640"]
        assert [len(line.points) for line in chart.series] == [2, 2, 2, 2, 1]
        # A series that lacks the first length stands at the second.
        assert chart.series[-1].points[0][0] == 1
        for line in chart.series:
            for (_, value), (low, high) in zip(line.points, line.intervals, strict=True):
                assert low <= value <= high


def test_a_policy_that_was_not_evaluated_is_named(runs):
    with pytest.raises(UserError, match="a@ppo: the run has start, cold_start, grpo; name one"):
        series_of({"after": [Answers(runs[0], "ppo")]})
