"""The serve job: what it refuses before it loads a model, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from recallm_jax import serve

ASKED = {
    "document": "The lamp was lit in 1874.\nAda Thorne kept it.\n",
    "question": "Who kept the lamp?",
}


def test_a_port_in_use_is_refused_before_the_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert serve.main(["--model=none", f"--port={port}"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: --host=127.0.0.1 --port={port} can't be had (Address already in use); give "
        "another port, or 0 for any free one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port=70000"], "--port=70000: give a number from 1 to 65535, or 0"),
        (["--host=nowhere.invalid"], "--host=nowhere.invalid: "),
        (["--max_waiting=0"], "--max_waiting=0: give a number above 0"),
        (["--port=0"], "none does not exist; give the workdir of a run"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, capsys):
    assert serve.main(["--model=none", *arguments]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {message}")


def test_without_its_extra_the_job_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert serve.main(["--model=none"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "error: uvicorn is not installed; run pip install -e '.[serve]' -c constraints.txt\n"
    )


def test_on_sigterm_the_questions_that_wait_are_answered(trained_run):
    command = [sys.executable, "-m", "recallm_jax.serve", f"--model={trained_run}", "--port=0"]
    found = []

    def ask(address):
        body = json.dumps(ASKED).encode()
        with urllib.request.urlopen(f"{address}/ask", data=body, timeout=120) as response:
            found.append([json.loads(line) for line in response])

    with subprocess.Popen(
        [*command, "--max_new_tokens=48"], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as server:
        try:
            line = server.stdout.readline()
            assert line.startswith(f"{trained_run.name} is served at http://127.0.0.1:")
            address = line.split()[4]
            clients = [threading.Thread(target=ask, args=[address]) for _ in range(3)]
            for client in clients:
                client.start()
            with urllib.request.urlopen(f"{address}/health", timeout=60) as health:
                while json.loads(health.read())["waiting"] < 2:
                    health = urllib.request.urlopen(f"{address}/health", timeout=60)
            server.send_signal(signal.SIGTERM)
            for client in clients:
                client.join()
            assert server.wait(60) == -signal.SIGTERM
        finally:
            server.kill()
    assert [rows[-1] for rows in found] == [{"last": True}] * 3
    assert len({rows[-2]["text"] for rows in found}) == 1
