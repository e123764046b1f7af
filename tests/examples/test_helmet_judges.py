"""HELMET's judged metrics by a model behind an endpoint: here a server with fixed replies."""

import http.server
import importlib.util
import json
import pathlib
import threading

import pytest

from tasks.suites import registry

PATH = pathlib.Path("examples/helmet_judges.py")


@pytest.fixture
def judges(monkeypatch):
    """The example as a module, and the suites as they were afterwards."""
    spec = importlib.util.spec_from_file_location("helmet_judges", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("SUITES", "OVERALL", "ACROSS"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    yield module
    registry._all_tasks.cache_clear()


@pytest.fixture
def asked(monkeypatch):
    """The prompts that the endpoint has got; it supports claims and grades 1, 2 of 3, and 0.5."""
    prompts = []

    class Judge(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert (self.path, body["model"]) == ("/v1/chat/completions", "some-judge")
            (message,) = body["messages"]
            prompts.append(message["content"])
            reply = "Yes."
            if "correctness" in message["content"]:
                reply = 'Here: {"fluency": 1, "correctness": 2}'
            elif "Expert" in message["content"]:
                reply = '{"fluency": 1, "recall": 0.5, "precision": 0.5}'
            if "out of range" in message["content"]:
                reply = '{"fluency": 1, "correctness": 7}'
            content = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
            self.send_response(200)
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


def test_a_judge_that_does_not_grade_is_named(judges, asked):
    with pytest.raises(ValueError, match="the judge's correctness is not a number from 0 to 3"):
        judges.grade_answer("Who?", "out of range", ["Tom"])


def test_an_endpoint_that_is_not_there_is_one_clear_line(judges, monkeypatch):
    monkeypatch.delenv("JUDGE_URL", raising=False)
    with pytest.raises(SystemExit, match="JUDGE_URL is not set"):
        judges.entails("a", "b")
    monkeypatch.setenv("JUDGE_URL", "http://127.0.0.1:1")
    with pytest.raises(SystemExit, match=r"the judge at http://127.0.0.1:1 did not answer"):
        judges.entails("a", "c")
