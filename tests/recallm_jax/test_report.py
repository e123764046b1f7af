"""The report: self-contained, escaped; links lead somewhere, and claims follow from the rows."""

import html.parser
import json
import math
import re
import shutil

import numpy as np
import pytest

from recallm_jax import report
from recallm_jax.reporting.charts import Series, line_chart
from recallm_jax.reporting.data import (
    change,
    choose_examples,
    colour,
    count,
    curve,
    load_run,
)
from recallm_jax.reporting.examples import Mark, highlight, make_example
from recallm_jax.reporting.figure import COLOURS
from recallm_jax.runtime.errors import UserError
from tests.oracles.fake_run import write_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "my_run"
    write_run(folder, examples=6)
    return folder


@pytest.fixture(scope="module")
def page(workdir):
    return report.build_report(workdir).read_text(encoding="utf-8")


class Tags(html.parser.HTMLParser):
    """Collects ids and links; fails on tags that do not close."""

    VOID = ("meta", "br", "circle", "line", "polyline", "input")

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.links, self.loads = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.loads += [attrs["src"]] if "src" in attrs else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_loads_nothing_and_its_links_lead_somewhere(page):
    tags = Tags(page)
    assert tags.loads == []
    assert tags.links
    assert {link.removeprefix("#") for link in tags.links} <= set(tags.ids)
    assert len(tags.ids) == len(set(tags.ids))
    assert "http" not in page


def test_texts_of_models_and_data_are_escaped(page):
    assert "<b>this</b>" not in page
    assert "&lt;b&gt;this&lt;/b&gt;" in page


def test_the_headline_counts_what_the_rows_hold(page, workdir):
    rows = [
        json.loads(line)
        for path in workdir.glob("eval/*/*.constrained-greedy.jsonl")
        for line in path.read_text().splitlines()
    ]
    share = {
        label: sum(r["exact_match"] for r in rows if r["label"] == label) / 24
        for label in ("start", "grpo")
    }
    assert f"{100 * share['start']:.0f} % → {100 * share['grpo']:.0f} %" in page
    spans = [span for row in rows for span in row["spans"]]
    assert f"{len(spans)} of {len(spans)} closed spans" in page


def test_a_span_stands_beside_its_source(page):
    example = page[page.index('<article id="e0-2"') :].partition("</article>")[0]
    assert example.count('data-span="1"') == 4  # response, source, its excerpt, whole prompt
    assert "1 place in the prompt" in example


def test_a_span_that_is_no_copy_is_told(workdir):
    rows = load_run(workdir).rows
    row = next(r for r in rows if r["spans"] and not r["spans"][0]["verbatim"])
    example = make_example("k", row)
    assert example.sources[0].excerpts == []
    assert 'class="span wrong"' in example.completion
    assert "<mark" not in example.prompt


def test_an_excerpt_holds_the_source_and_few_lines_around(workdir):
    row = next(r for r in load_run(workdir).rows if r["spans"] and r["exact_match"])
    (((first, last), excerpt),) = make_example("k", row).sources[0].excerpts
    text = re.sub("<sup>1</sup>", "", str(excerpt)).strip("…")
    text = html.unescape(re.sub("<[^>]*>", "", text))
    assert row["prompt"][first:last] == row["spans"][0]["text"]
    assert row["spans"][0]["text"] in text
    assert text in row["prompt"]
    assert text.count("\n") <= 5


def test_overlapping_marks_keep_the_text():
    marks = [
        Mark(0, 4, 1, "a", "x", "#1"),
        Mark(2, 6, 2, "b", "y", ""),
        Mark(6, 99, 3, "c", "", ""),
    ]
    marked = str(highlight("ab<d|efgh", marks))
    assert html.unescape(re.sub("<sup>.</sup>|<[^>]*>", "", marked)) == "ab<d|efgh"
    assert [marked.count(f"<sup>{n}</sup>") for n in (1, 2, 3)] == [1, 1, 1]


def test_control_tokens_are_dimmed_and_escaped():
    assert highlight("<|im_end|>x", []) == '<span class="control">&lt;|im_end|&gt;</span>x'


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [(0.3, "the reward rose"), (0.0, "within noise"), (-0.3, "the reward fell")],
)
def test_the_page_says_whether_grpo_moved_its_reward(tmp_path, gain, sentence):
    write_run(tmp_path / "run", examples=1, reward_gain=gain)
    assert sentence in report.build_report(tmp_path / "run").read_text(encoding="utf-8")


def test_the_change_of_a_curve_by_hand():
    moved = change([0.0, 2.0, 5.0, 5.0, 4.0, 6.0])
    assert (moved.first, moved.last, moved.steps) == (1.0, 5.0, 2)
    # The standard deviation of (0, 2), as of (4, 6), is sqrt(2); over sqrt(2) values it gives 1.
    assert moved.first_error == pytest.approx(1.0)
    # Spreads are equal, so that two pairs leave 2 degrees of freedom: t = 4.303. Two standard
    # errors are 2.83, which 4 exceeds; the interval is 4 ± 6.085.
    assert moved.interval.freedom == pytest.approx(2.0)
    low, high = moved.interval.low, moved.interval.high
    assert (low, high) == pytest.approx((-2.085, 10.085), abs=1e-3)
    assert moved.within_noise
    assert change([1.0] * 5) is None


def test_a_reward_that_only_scatters_seldom_counts_as_changed():
    # By two standard errors 18 % of six steps would.
    curves = np.random.default_rng(0).normal(size=(1000, 6))
    assert np.mean([not change(values.tolist()).within_noise for values in curves]) < 0.06


@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0])
def test_a_reward_that_never_changes_is_no_change(tmp_path, reward):
    rows = [{"stage": "grpo", "step": n, "time": n, "reward": reward} for n in range(9)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report.build_report(tmp_path).read_text(encoding="utf-8")
    assert "within noise" in page
    assert "the reward fell" not in page and 'class="tile bad"' not in page


def test_values_that_are_no_number_are_left_out_of_curves():
    rows = [{"step": 0, "x": 1.0}, {"step": 1, "x": math.nan}, {"step": 2}]
    assert curve(rows, "x") == [(0, 1.0)]


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 1e-9], [-1e6, 3e6]])
def test_a_chart_of_any_values_has_finite_places_inside_the_frame(values):
    svg = line_chart([Series("a", list(enumerate(values)), "s0")], x_label="step")
    places = [float(x) for x in re.findall(r'c[xy]="([^"]*)"', svg)]
    assert len(places) == 2 * len(values)
    assert all(0 <= place <= 330 for place in places)


def test_examples_show_changed_answers_first_for_every_policy(workdir):
    run = load_run(workdir)
    groups = choose_examples(run, 2)
    assert len(groups) == 2 * 4 * 2
    assert all([row["label"] for row in rows] == run.labels for rows in groups)
    first = groups[0]
    assert (first[0]["exact_match"], first[-1]["exact_match"]) == (0.0, 1.0)


@pytest.fixture
def labelled(workdir, tmp_path):
    """A run whose final policy was evaluated under other labels too, always wrong."""
    folder = tmp_path / "labelled"
    shutil.copytree(workdir, folder)
    for label in ("grpo_step20", "mine", "other", "x", "y", "z"):
        (folder / "eval" / label).mkdir()
        for path in (folder / "eval" / "grpo").iterdir():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            lines = [json.dumps(row | {"label": label, "exact_match": 0.0}) for row in rows]
            (folder / "eval" / label / path.name).write_text("".join(f"{x}\n" for x in lines))
    return folder


def headline(page):
    return re.search("<h3>Exact match, .*?</div>", page, re.DOTALL)[0]


def test_other_labels_stand_in_the_tables_but_not_in_the_headline(labelled, workdir, page):
    text = report.build_report(labelled).read_text(encoding="utf-8")
    assert headline(text) == headline(page)
    assert '<option value="grpo" selected>' in text
    assert text.count("selected") == page.count("selected")
    assert "</i>grpo_step20</span>" in text
    chosen = (choose_examples(load_run(folder), 2) for folder in (labelled, workdir))
    ids = [[rows[0]["example_id"] for rows in groups] for groups in chosen]
    assert ids[0] == ids[1]


def test_a_run_on_its_way_is_judged_by_the_stages_it_has_ended(labelled):
    shutil.rmtree(labelled / "eval" / "grpo")
    page = report.build_report(labelled).read_text(encoding="utf-8")
    assert "after cold start [" in headline(page) and "grpo_step20" not in headline(page)
    assert '<option value="cold_start" selected>' in page


def test_every_label_has_a_colour_in_page_and_picture(labelled):
    run = load_run(labelled)
    numbers = [colour(run, label) for label in run.labels]
    # Ends of stages keep theirs; of the others, the fifth shares that of the first.
    assert numbers == [0, 1, 2, 4, 5, 6, 7, 4, 5]
    page = report.build_report(labelled).read_text(encoding="utf-8")
    for number in numbers:
        # In the light scheme and in the dark one.
        light, dark = re.findall(rf"--s{number}: (#\w*);", page)
        assert light == COLOURS[number] != dark
        assert f".s{number} {{ --hue: var(--s{number}); }}" in page


def test_no_rows_count_as_nothing():
    assert count([]) is None


def test_a_run_in_progress_has_a_page(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"stage": "sft1", "step": 0, "time": 1.0, "loss": 2.0}\n{"stage": "sft1", "st'
    )
    page = report.build_report(tmp_path).read_text(encoding="utf-8")
    Tags(page)
    assert "No evaluation has been written yet" in page


def test_short_grpo_is_told_as_too_short(tmp_path):
    rows = [{"stage": "grpo", "step": n, "time": n, "reward": 0.5} for n in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report.build_report(tmp_path).read_text(encoding="utf-8")
    assert "GRPO ran 4 steps: too few to tell" in page


def test_the_job_says_where_the_page_is(workdir, capsys):
    assert report.main([f"--workdir={workdir}"]) == 0
    assert capsys.readouterr().out == f"report: {(workdir / 'report.html').as_uri()}\n"


def test_a_picture_is_drawn_on_request(workdir, tmp_path):
    path = tmp_path / "missing" / "folder" / "run.PNG"
    assert report.main([f"--workdir={workdir}", f"--figure={path}"]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["run.doc", "run"])
def test_a_picture_of_no_known_kind_is_refused(workdir, tmp_path, capsys, name):
    path = tmp_path / "missing" / name
    assert report.main([f"--workdir={workdir}", f"--figure={path}"]) == 2
    error = capsys.readouterr().err
    assert f"error: --figure={path} must end in a kind of picture: any of ." in error
    assert ".png" in error
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b'{"seed": 0,'),
        ("config.json", b"[1, 2]"),
        ("machine.json", b"\xff"),
    ],
)
def test_a_damaged_file_is_named_with_its_remedy(tmp_path, capsys, name, content):
    write_run(tmp_path, examples=1)
    (tmp_path / name).write_bytes(content)
    assert report.main([f"--workdir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / name} is damaged (") and error.count("\n") == 1
    assert error.endswith("; restore it, or delete it to report without it\n")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("content", ['{"seed": 0}', '{"model": 1, "stages": [], "seed": 0}'])
def test_a_config_without_a_runs_fields_is_named_with_its_remedy(tmp_path, capsys, content):
    write_run(tmp_path, examples=1)
    (tmp_path / "config.json").write_text(content)
    assert report.main([f"--workdir={tmp_path}"]) == 2
    assert "is no config of a run" in capsys.readouterr().err
    (tmp_path / "config.json").unlink()
    assert report.main([f"--workdir={tmp_path}"]) == 0


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="holds neither metrics"):
        report.build_report(tmp_path)
    assert report.main([f"--workdir={tmp_path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
