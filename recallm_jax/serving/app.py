"""The web application: OpenAI's chat completions, the page, and what the page asks."""

import asyncio
import contextlib
import html
import json
import pathlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from recallm_jax.answering.answer import Answer
from recallm_jax.answering.files import answer_row
from recallm_jax.serving.chat import Chunks, Served, completion, read_request
from recallm_jax.serving.errors import BadRequest
from recallm_jax.serving.service import Busy, Inquiry, Service
from storage.errors import InputError

# How often it is looked whether a client that waits is still there.
_LOOK_SECONDS = 1.0
PAGE = pathlib.Path(__file__).with_name("page.html")
# The page loads nothing from elsewhere, and no other site may show it or ask through it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def make_app(service: Service, model: Served, *, max_body_bytes: int) -> Starlette:
    """Return the application; it closes the service when it ends.

    Args:
      max_body_bytes: the longest body of a request.
    """
    begun = int(time.time())
    page = PAGE.read_text(encoding="utf-8").replace("{{ model }}", html.escape(model.name))

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": service.waiting})

    async def models(request: Request) -> Response:
        one = {"id": model.name, "object": "model", "created": begun, "owned_by": "recallm-jax"}
        return JSONResponse({"object": "list", "data": [one]})

    async def chat(request: Request) -> Response:
        asked = read_request(await _body(request, max_body_bytes), model)
        answers = service.answers(asked.inquiry)
        if asked.stream:
            first = await _next(request, answers)
            return _events(_chunks(Chunks(asked), first, answers))
        answer = await _last(request, answers)
        return JSONResponse(completion(asked, answer))

    async def ask(request: Request) -> Response:
        """Answer the page: a line of JSON for each state of the answer."""
        body = await _body(request, max_body_bytes)
        fields = body if isinstance(body, dict) else {}
        document, question = fields.get("document"), fields.get("question")
        if not isinstance(document, str) or not isinstance(question, str):
            raise BadRequest("document and question must be texts")
        answers = service.answers(Inquiry(document, question, model.options))
        first = await _next(request, answers)

        async def lines() -> AsyncIterator[str]:
            async with contextlib.aclosing(answers):
                yield json.dumps(answer_row(first) | {"last": False}) + "\n"
                async for answer in answers:
                    yield json.dumps(answer_row(answer) | {"last": False}) + "\n"
            yield json.dumps({"last": True}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/health", health),
            Route("/ask", ask, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        exception_handlers={
            BadRequest: _refused,
            InputError: _refused,
            TooLarge: _too_large,
            Busy: _busy,
            ClientDisconnect: _gone,
            Exception: _fault,
        },
        lifespan=lifespan,
    )


class TooLarge(Exception):
    """The body of a request is longer than the service takes."""


async def _body(request: Request, limit: int) -> Any:
    """Return what the JSON of a request's body holds.

    Raises:
      TooLarge: it is longer than `limit` bytes.
      BadRequest: it is not JSON, or a text in it is not valid Unicode.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"the body has more than {limit} bytes; send a shorter document")
    try:
        value = json.loads(body)
        # JSON can spell halves of characters, which no answer could hold.
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadRequest(
            "a text of the body is not valid Unicode: it holds half of a character"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON ({error})") from None
    return value


async def _next(request: Request, answers: AsyncGenerator[Answer, None]) -> Answer:
    """Return the next state of an answer.

    Raises:
      ClientDisconnect: the client has gone; then the answer is given up.
      StopAsyncIteration: the answer was whole.
    """
    coming = asyncio.ensure_future(anext(answers))
    while not (await asyncio.wait({coming}, timeout=_LOOK_SECONDS))[0]:
        if await request.is_disconnected():
            coming.cancel()
            raise ClientDisconnect
    return coming.result()


async def _last(request: Request, answers: AsyncGenerator[Answer, None]) -> Answer:
    """Return the whole answer.

    Raises:
      ClientDisconnect: see `_next`.
    """
    answer = await _next(request, answers)
    with contextlib.suppress(StopAsyncIteration):
        while True:
            answer = await _next(request, answers)
    return answer


async def _chunks(
    chunks: Chunks, first: Answer, answers: AsyncGenerator[Answer, None]
) -> AsyncIterator[dict[str, Any]]:
    answer = first
    async with contextlib.aclosing(answers):
        for chunk in chunks.of(first, last=False):
            yield chunk
        async for answer in answers:
            for chunk in chunks.of(answer, last=False):
                yield chunk
    for chunk in chunks.of(answer, last=True):
        yield chunk


def _events(chunks: AsyncIterator[dict[str, Any]]) -> Response:
    async def events() -> AsyncIterator[str]:
        async for chunk in chunks:
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def _error(message: str, status: int, kind: str, param: str | None = None) -> Response:
    """Return an error in OpenAI's form."""
    error = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status_code=status)


async def _refused(request: Request, error: Exception) -> Response:
    return _error(str(error), 400, "invalid_request_error", getattr(error, "param", None))


async def _too_large(request: Request, error: Exception) -> Response:
    return _error(str(error), 413, "invalid_request_error")


async def _busy(request: Request, error: Exception) -> Response:
    response = _error("too many questions wait; try again soon", 429, "rate_limit_error")
    response.headers["Retry-After"] = "5"
    return response


async def _gone(request: Request, error: Exception) -> Response:
    # Nobody reads it.
    return Response(status_code=499)


async def _fault(request: Request, error: Exception) -> Response:
    return _error("the server failed on this request; its log says why", 500, "server_error")
