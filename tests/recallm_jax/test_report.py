"""The report: self-contained and escaped, with links that work and claims that the rows support."""

import html.parser
import json
import re
import shutil

import pytest

from recallm_jax import report
from recallm_jax.reporting.data import colour, load_run
from recallm_jax.reporting.examples import choose_examples
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


def test_the_page_of_a_trained_run_holds_its_stages_and_rows(copied_run):
    found = report.build_report(copied_run).read_text(encoding="utf-8")
    assert Tags(found).loads == []
    rows = [
        json.loads(line)
        for path in sorted((copied_run / "eval").glob("*/*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    # Three policies answered two prompts of each of two data sets.
    assert len(rows) == 12
    run = load_run(copied_run)
    assert sorted(map(str, run.rows)) == sorted(map(str, rows))
    assert {stage: len(rows) for stage, rows in run.metrics.items()} == dict.fromkeys(
        ("sft1", "sft2", "grpo"), 2
    )
    assert "after cold start" in found and "after GRPO" in found


def test_the_page_loads_nothing_and_its_links_work(page):
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


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [(0.3, "the reward rose"), (0.0, "within noise"), (-0.3, "the reward fell")],
)
def test_the_page_says_whether_grpo_moved_its_reward(tmp_path, gain, sentence):
    write_run(tmp_path / "run", examples=1, reward_gain=gain)
    assert sentence in report.build_report(tmp_path / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0])
def test_a_constant_reward_counts_as_no_change(tmp_path, reward):
    rows = [{"stage": "grpo", "step": n, "time": n, "reward": reward} for n in range(9)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report.build_report(tmp_path).read_text(encoding="utf-8")
    assert "within noise" in page
    assert "the reward fell" not in page and 'class="tile bad"' not in page


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


def test_other_labels_are_in_the_tables_but_not_in_the_headline(labelled, workdir, page):
    text = report.build_report(labelled).read_text(encoding="utf-8")
    assert headline(text) == headline(page)
    assert '<option value="grpo" selected>' in text
    assert text.count("selected") == page.count("selected")
    assert "</i>grpo_step20</span>" in text
    chosen = (choose_examples(load_run(folder), 2) for folder in (labelled, workdir))
    ids = [[rows[0]["example_id"] for rows in groups] for groups in chosen]
    assert ids[0] == ids[1]


def test_a_run_in_progress_is_judged_by_its_finished_stages(labelled):
    shutil.rmtree(labelled / "eval" / "grpo")
    page = report.build_report(labelled).read_text(encoding="utf-8")
    assert "after cold start [" in headline(page) and "grpo_step20" not in headline(page)
    assert '<option value="cold_start" selected>' in page


def test_every_label_has_a_colour_in_page_and_picture(labelled):
    run = load_run(labelled)
    numbers = [colour(run, label) for label in run.labels]
    # Labels of finished stages keep their colours; the fifth other label shares that of the first.
    assert numbers == [0, 1, 2, 4, 5, 6, 7, 4, 5]
    page = report.build_report(labelled).read_text(encoding="utf-8")
    for number in numbers:
        # In the light scheme and in the dark one.
        light, dark = re.findall(rf"--s{number}: (#\w*);", page)
        assert light == COLOURS[number] != dark
        assert f".s{number} {{ --hue: var(--s{number}); }}" in page


def test_a_run_in_progress_has_a_page(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"stage": "sft1", "step": 0, "time": 1.0, "loss": 2.0}\n{"stage": "sft1", "st'
    )
    page = report.build_report(tmp_path).read_text(encoding="utf-8")
    Tags(page)
    assert "No evaluation has been written yet" in page


def test_what_is_left_to_do_is_said_on_the_page_and_in_the_terminal(tmp_path, capsys):
    write_run(tmp_path, examples=1)
    assert report.main([f"--workdir={tmp_path}"]) == 0
    assert "not finished" not in capsys.readouterr().out
    assert "This run is not finished" not in (tmp_path / "report.html").read_text("utf-8")
    metrics = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["evaluation"] = {"num_examples": 1, "policies": ["start", "cold_start", "grpo", "ppo"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for label in ("start", "cold_start"):
        (tmp_path / "eval" / label / "summary.json").write_text("[]")
    # GRPO's has rows, but not all of them.
    # sft1 has 4 steps, sft2 has 12.
    for kept, line in [
        (4 + 12, "grpo has not begun; grpo has no whole evaluation"),
        (4 + 7, "sft2 has made 7 of 12 steps, the last at 2026-"),
    ]:
        (tmp_path / "metrics.jsonl").write_text("".join(metrics[:kept]))
        assert report.main([f"--workdir={tmp_path}"]) == 0
        said = capsys.readouterr().out
        assert f"not finished: {line}" in said and "ppo" not in said
        page = (tmp_path / "report.html").read_text("utf-8")
        assert f"<b>This run is not finished:</b> {line}" in page


def test_a_short_grpo_is_called_too_short(tmp_path):
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
    assert "is not the config of a run" in capsys.readouterr().err
    (tmp_path / "config.json").unlink()
    assert report.main([f"--workdir={tmp_path}"]) == 0


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="holds neither metrics"):
        report.build_report(tmp_path)
    assert report.main([f"--workdir={tmp_path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
