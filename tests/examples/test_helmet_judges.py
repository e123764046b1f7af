"""HELMET's judged metrics by a model behind an endpoint: here a server with fixed replies."""

import http.server
import importlib.util
import json
import pathlib
import threading

import pytest

from tasks.errors import TaskInputError
from tasks.suites import registry

PATH = pathlib.Path("examples/helmet_judges.py")


@pytest.fixture
def judges(monkeypatch, tmp_path):
    """The example as a module, without its waits, and the suites as they were afterwards."""
    spec = importlib.util.spec_from_file_location("helmet_judges", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("SUITES", "OVERALL", "ACROSS"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(module, "replies", tmp_path / "judge_replies.jsonl")
    module.waited = []
    monkeypatch.setattr(module.time, "sleep", module.waited.append)
    yield module
    registry._all_tasks.cache_clear()


def said(content):
    """The status and the body of a reply with this text."""
    return 200, json.dumps({"choices": [{"message": {"content": content}}]}).encode()


def usual(prompt):
    """The reply of a judge that supports claims and grades 1, 2 of 3, and 0.5."""
    if "correctness" in prompt:
        return said('Here: {"fluency": 1, "correctness": 2}')
    return said('{"fluency": 1, "recall": 0.5, "precision": 0.5}' if "Expert" in prompt else "Yes.")


class Asked(list):
    """The prompts that the endpoint has got; `script` has its next replies, before the usual."""

    def __init__(self):
        self.script = []


@pytest.fixture
def asked(monkeypatch):
    prompts = Asked()

    class Judge(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert (self.path, body["model"]) == ("/v1/chat/completions", "some-judge")
            (message,) = body["messages"]
            prompts.append(message["content"])
            reply = prompts.script.pop(0) if prompts.script else usual(message["content"])
            status, content, *headers = reply
            self.send_response(status)
            for name, text in headers:
                self.send_header(name, text)
            if "Content-Length" not in dict(headers):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            del arguments

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("JUDGE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("JUDGE_MODEL", "some-judge")
    yield prompts
    server.shutdown()
    server.server_close()


def test_the_judges_metrics_are_there_and_none_is_missing(judges, asked):
    judges.register()
    task = registry.find_task("helmet_narrativeqa")
    truth = {"answers": ["Tom", "Tommy"], "choices": {"question": "Who?"}}
    scores = task.score("Tom", truth)
    assert next(iter(scores.items())) == ("gpt-4-score", pytest.approx(2 / 3))
    assert "Question: Who?" in asked[0] and "Tom or Tommy" in asked[0]
    task = registry.find_task("helmet_alce_asqa")
    truth = {"answers": ["Madrid"], "parts": [["Madrid"]]}
    truth["choices"] = {"question": "Which?", "1": "Title: Spain\nMadrid is it."}
    scores = task.score("The capital is Madrid [1].", truth)
    assert (scores["citation_rec"], scores["citation_prec"]) == (1.0, 1.0)
    assert "Claim: The capital is Madrid." in asked[1]
    assert not any("missing" in name for name in task.aggregate([scores]))
    task = registry.find_task("helmet_infbench_sum_eng")
    assert task.score("A tale.", {"answers": ["The tale."]})["gpt-4-f1"] == pytest.approx(0.5)
    # The same prompt is asked once.
    count = len(asked)
    task.score("A tale.", {"answers": ["The tale."]})
    assert len(asked) == count


RIGHT = said('{"fluency": 1, "correctness": 2}')
GRADED = (1.0, 2.0)


@pytest.mark.parametrize(
    "bad",
    [
        (500, b"no"),
        (200, b'{"choices": []}'),
        said(None),
        (200, b"[1, 2]"),
        (200, b"<html>busy</html>"),
        (200, b'{"choices"', ("Content-Length", "500")),
        said("I like it."),
        said('{"fluency": 1, "correctness": 7}'),
        said('{"fluency": "1", "correctness": 2}'),
        said("{fluency: 1, correctness: 2}"),
        said("[1, 2]"),
    ],
)
def test_what_is_no_grade_is_asked_again_and_in_the_end_one_clear_error(judges, asked, bad):
    asked.script = [bad, RIGHT]
    assert judges.grade_answer("Who?", "Tom", ["Tom"]) == GRADED
    assert judges.waited == [2.0]
    asked.script = [bad] * 4
    with pytest.raises(TaskInputError, match=r"the judge at http://\S+ gave no grade \(.+\); see"):
        judges.grade_answer("Who else?", "Tom", ["Tom"])
    assert len(asked) == 6 and judges.waited == [2.0, 2.0, 10.0, 30.0]
    # Only what could be read is kept.
    assert len(judges.kept_replies(judges.replies)) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("soon", 2.0), ("99999", 600.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
def test_an_endpoint_says_how_long_to_wait(judges, asked, header, seconds):
    asked.script = [(429, b"", ("Retry-After", header)), RIGHT]
    assert judges.grade_answer("Who?", "Tom", ["Tom"]) == GRADED
    assert judges.waited == [seconds]


def test_a_refusal_is_final(judges, asked):
    asked.script = [(401, b"")]
    with pytest.raises(TaskInputError, match=r"gave no grade \(HTTP 401, Unauthorized\); see"):
        judges.entails("a", "b")
    assert len(asked) == 1 and not judges.waited


def test_numbers_are_those_of_the_last_object_that_has_them(judges):
    replies = [
        'The form {"fluency": 0 or 1} is: {"fluency": 1, "correctness": 2}',
        'First {"fluency": 0, "correctness": 0}, then {"fluency": 1, "correctness": 2}.',
        '{"fluency": 1, "correctness": 2, "why": {"fluency": "good"}}',
    ]
    for reply in replies:
        assert judges.numbers(reply, fluency=1, correctness=3) == GRADED
    with pytest.raises(ValueError, match="the judge's correctness is not a number from 0 to 3"):
        judges.numbers('{"fluency": 1, "correctness": 7}', fluency=1, correctness=3)


def test_a_verdict_is_yes_or_no_and_nothing_else(judges):
    assert judges.verdict("**Yes**, it does.") and not judges.verdict("no")
    for reply in ("", "Nobody knows.", "I think yes"):
        with pytest.raises(ValueError, match="says neither yes nor no"):
            judges.verdict(reply)


def test_replies_are_kept_over_a_stop_that_cuts_a_line_short(judges, asked):
    assert judges.entails("a", "b")
    with judges.replies.open("a") as file:
        file.write('{"model": "some-judge", "pro')
    judges.kept_replies.cache_clear()
    assert judges.entails("a", "b") and len(asked) == 1
    assert judges.entails("a", "c") and len(asked) == 2
    judges.kept_replies.cache_clear()
    assert judges.entails("a", "b") and judges.entails("a", "c") and len(asked) == 2


def test_replies_stand_beside_the_results(judges, monkeypatch):
    monkeypatch.setattr(judges.evaluate, "main", lambda argv: 0)
    assert judges.main(["--workdir=runs/a", "--label=start"]) == 0
    assert judges.replies == pathlib.Path("runs/a/judge_replies.jsonl")
    assert judges.main(["--workdir=runs/a", "--results", "runs/b"]) == 0
    assert judges.replies == pathlib.Path("runs/b/judge_replies.jsonl")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "JUDGE_URL = '' is no endpoint"),
        ("localhost:8000", "gave no grade .URLError: <urlopen error unknown url type: localhost"),
        ("http://[::1/v1", r"JUDGE_URL = 'http://\[::1/v1' is no endpoint"),
        ("http://127.0.0.1:1", r"the judge at http://127.0.0.1:1/chat/completions gave no grade"),
        ("http://host:port", "gave no grade .InvalidURL"),
    ],
)
def test_an_endpoint_that_is_not_there_is_one_clear_line(judges, monkeypatch, url, message):
    monkeypatch.setenv("JUDGE_URL", url)
    with pytest.raises(TaskInputError, match=message):
        judges.entails("a", "b")
