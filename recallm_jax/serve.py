"""Serve a model on this machine: a page to ask on, and OpenAI's chat completions.

    python -m recallm_jax.serve
    python -m recallm_jax.serve --model=runs/quickstart

Where no model is named, it is SmolLM2-135M-Instruct with the adapter in the box. The page is at /,
the endpoint at /v1. Questions are answered one after the other: this is for trying and evaluating
a model, not for many users (docs/ask.md). On SIGTERM the questions that wait are answered, then the
server ends.
"""

import contextlib
import socket
import sys
from collections.abc import Sequence

from recallm_jax.answering import box
from recallm_jax.answering.arguments import add_model_arguments, check_limit, named_reader
from recallm_jax.config.load import JobParser
from recallm_jax.runtime.errors import UserError, run_job
from recallm_jax.runtime.kept_programs import USER, keep_programs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; return the exit code."""
    return run_job(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = JobParser("python -m recallm_jax.serve", __doc__)
    add_model_arguments(parser)
    parser.add_argument("--name", help="the model's name for clients; the path's last part")
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1: this machine alone")
    parser.add_argument("--port", type=int, default=8000, help="8000")
    parser.add_argument("--max_waiting", type=int, default=16, help="questions that may wait; 16")
    parser.add_argument("--max_body_mb", type=float, default=4.0, help="size of a request; 4")
    parser.add_argument(
        "--documents", type=int, default=4, help="documents that are kept for more questions; 4"
    )
    arguments = parser.parse_args(argv)
    check_limit(arguments)
    for name in ("max_waiting", "max_body_mb", "documents"):
        value = getattr(arguments, name)
        if not value > 0:
            raise UserError(f"--{name}={value}: give a number above 0")
    try:
        import uvicorn

        from recallm_jax.serving.app import make_app
        from recallm_jax.serving.chat import Served
        from recallm_jax.serving.service import Service
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; run pip install -e '.[serve]' -c constraints.txt"
        ) from None
    # A port that can't be had is said before the model is loaded.
    with _bound(arguments.host, arguments.port) as bound:
        keep_programs(USER)
        reader = named_reader(arguments)
        path = arguments.model or box.NAME
        name = arguments.name or path.rstrip("/").rpartition("/")[2]
        service = Service(
            reader, most_waiting=arguments.max_waiting, most_documents=arguments.documents
        )
        model = Served(name, reader.options, thinks=reader.settings.thinking)
        app = make_app(service, model, max_body_bytes=int(arguments.max_body_mb * 1e6))
        # From here on clients are not turned away.
        bound.listen()
        host, port = bound.getsockname()[:2]
        print(f"{name} is served at http://{host}:{port} (page) and /v1 (OpenAI)", flush=True)
        settings = uvicorn.Config(app, log_level="warning", lifespan="on")
        uvicorn.Server(settings).run(sockets=[bound])


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65536:
        raise UserError(f"--port={port}: give a number from 1 to 65535, or 0 for any free port")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as opened:
            bound = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            opened.pop_all()
            return bound
    except socket.gaierror as error:
        raise UserError(
            f"--host={host}: {error.strerror}; give an address of this machine"
        ) from None
    except OSError as error:
        raise UserError(
            f"--host={host} --port={port} can't be had ({error.strerror}); give another port, or 0 "
            "for any free one"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
