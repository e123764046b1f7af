"""OpenAI's chat completions: requests as inquiries, and answers as completions.

Beside OpenAI's fields a message has `citations` (`documents.citations`) and `recall`: the whole
response with its tags, its answer, and whether the model ended it.
"""

import dataclasses
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from decoding.errors import DecodingInputError
from decoding.sampling import Sampling
from recallm_jax.answering.answer import Answer
from recallm_jax.answering.questions import Options
from recallm_jax.serving.documents import (
    Document,
    citations,
    document_of,
    joined,
    split_tagged,
)
from recallm_jax.serving.errors import BadRequest
from recallm_jax.serving.service import Inquiry
from tasks.prompts.vocabulary import END_RECALL, END_THINK, START_RECALL

# Fields that change nothing here, and the values that fields without an effect may have.
_IGNORED = {"user", "store", "metadata", "service_tier", "safety_identifier", "stream_options"}
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "stop": ([], ""),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "modalities": (["text"],),
}
_USED = {
    *("model", "messages", "stream", "temperature", "top_p", "seed"),
    *("max_tokens", "max_completion_tokens"),
}


@dataclasses.dataclass(frozen=True)
class Served:
    """The model that is served: its name, the usual options, and whether its responses think."""

    name: str
    options: Options
    thinks: bool


@dataclasses.dataclass(frozen=True)
class ChatRequest:
    """A request for a chat completion."""

    model: Served
    documents: tuple[Document, ...]
    inquiry: Inquiry
    stream: bool


def read_request(body: Any, model: Served) -> ChatRequest:
    """Return the request in a body. It may lower the usual limit of a response.

    Args:
      body: what its JSON holds.

    Raises:
      BadRequest: names the field, its value and the remedy.
    """
    if not isinstance(body, Mapping):
        raise BadRequest("the body must be a JSON object")
    for name, value in body.items():
        if name in _USED | _IGNORED or value is None:
            continue
        if name not in _WITHOUT_EFFECT:
            raise BadRequest(f"{name} is not supported; leave it out", name)
        if value not in _WITHOUT_EFFECT[name]:
            raise BadRequest(f"{name} = {value!r} is not supported; leave it out", name)
    if (name := body.get("model")) != model.name:
        raise BadRequest(f"model {name!r} is not served here; use {model.name!r}", "model")
    system, question, documents = _read_messages(body.get("messages"))
    if not documents:
        raise BadRequest(
            "messages hold no document; give it between <document> and </document>, or as a part "
            '{"type": "document", "text": …}',
            "messages",
        )
    inquiry = Inquiry(joined(documents), question, _options(body, model.options), system)
    return ChatRequest(model, tuple(documents), inquiry, _flag(body, "stream"))


def _read_messages(messages: Any) -> tuple[str | None, str, list[Document]]:
    """Return the system prompt, the question and the documents."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise BadRequest("messages must be a list with at least one message", "messages")
    system: list[str] = []
    texts: list[str] = []
    documents: list[Document] = []
    for number, message in enumerate(messages):
        name = f"messages[{number}]"
        if not isinstance(message, Mapping):
            raise BadRequest(f"{name} must be an object with role and content", name)
        role = message.get("role")
        if role not in ("system", "developer", "user"):
            raise BadRequest(
                f"{name}.role = {role!r}: questions are answered one by one; give system and user "
                "messages only",
                f"{name}.role",
            )
        text, found = _read_content(message.get("content"), f"{name}.content")
        (texts if role == "user" else system).append(text)
        documents += found
    question = "\n".join(filter(None, texts))
    return ("\n".join(system) if system else None), question, documents


def _read_content(content: Any, name: str) -> tuple[str, list[Document]]:
    if isinstance(content, str):
        return split_tagged(content)
    if not isinstance(content, Sequence):
        raise BadRequest(f"{name} must be a text or a list of parts", name)
    texts, documents = [], []
    for number, part in enumerate(content):
        where = f"{name}[{number}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text, found = split_tagged(part["text"])
            texts.append(text)
            documents += found
        elif kind in ("document", "file"):
            documents.append(document_of(part, where))
        else:
            raise BadRequest(
                f"{where} of type {kind!r} is not supported; use parts of type text, document or "
                "file",
                where,
            )
    return "\n".join(filter(None, texts)), documents


def _options(body: Mapping[str, Any], usual: Options) -> Options:
    limit = usual.max_new_tokens
    for name in ("max_tokens", "max_completion_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if type(value) is not int or value < 1:
            raise BadRequest(f"{name} = {value!r} must be a whole number from 1 up", name)
        limit = min(value, limit)
    temperature = _number(body, "temperature", usual.sampling.temperature)
    seed = body.get("seed")
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**31):
        raise BadRequest(f"seed = {seed!r} must be a whole number from 0 to 2147483647", "seed")
    try:
        sampling = Sampling(temperature=temperature, top_p=_number(body, "top_p", 1.0))
    except DecodingInputError as error:
        raise BadRequest(str(error), str(error).split()[0]) from None
    return Options(limit, sampling, usual.seed if seed is None else seed, usual.quote_first)


def _number(body: Mapping[str, Any], name: str, usual: float) -> float:
    value = body.get(name)
    if value is None:
        return usual
    if type(value) not in (int, float):
        raise BadRequest(f"{name} = {value!r} must be a number", name)
    return float(value)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name) or False
    if type(value) is not bool:
        raise BadRequest(f"{name} = {value!r} must be true or false", name)
    return value


def completion(request: ChatRequest, answer: Answer) -> dict[str, Any]:
    """Return the completion of a request."""
    thought, reply = split_thought(answer.text, thinks=request.model.thinks)
    message = {"role": "assistant", "content": reply, "reasoning_content": thought}
    return _head(request, "chat.completion") | {
        "choices": [
            {
                "index": 0,
                "message": message | _extras(request, answer),
                "finish_reason": _finish_reason(answer),
                "logprobs": None,
            }
        ],
        "usage": _usage(answer),
    }


class Chunks:
    """The chunks of a streamed completion, made from its growing answers."""

    def __init__(self, request: ChatRequest):
        self._request = request
        self._head = _head(request, "chat.completion.chunk")
        self._sent = {"reasoning_content": 0, "content": 0}
        self._begun = False

    def of(self, answer: Answer, *, last: bool) -> Iterator[dict[str, Any]]:
        """Yield the chunks that an answer adds; after the last one what only the whole has."""
        thought, reply = split_thought(answer.text, thinks=self._request.model.thinks)
        for name, text in (("reasoning_content", thought), ("content", reply)):
            # The last characters may be a part of one, or of a tag.
            known = text if last else _known(text)
            if more := known[self._sent[name] :]:
                self._sent[name] = len(known)
                yield self._chunk({name: more})
        if last:
            ends = self._chunk(_extras(self._request, answer), _finish_reason(answer))
            yield ends | {"usage": _usage(answer)}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        if not self._begun:
            self._begun, delta = True, {"role": "assistant", **delta}
        return self._head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def split_thought(text: str, *, thinks: bool) -> tuple[str, str]:
    """Return the thought of a response, and what follows it, both without recall tags.

    A response that thinks and has no end of its thought is all thought.
    """
    thought, end, reply = text.partition(END_THINK)
    if not end and not thinks:
        thought, reply = "", text
    return _plain(thought), _plain(reply).strip()


def _plain(text: str) -> str:
    return text.replace(START_RECALL, "").replace(END_RECALL, "")


def _known(text: str) -> str:
    text = text.rstrip("\ufffd")
    # A tag that is being written begins so; white space may be the end of the whole.
    opened = text.rfind("<", max(0, len(text) - len(START_RECALL)))
    return (text if opened < 0 else text[:opened]).rstrip()


def _head(request: ChatRequest, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model.name,
    }


def _extras(request: ChatRequest, answer: Answer) -> dict[str, Any]:
    return {
        "citations": citations(answer, request.documents),
        "recall": {
            "text": answer.text,
            "answer": answer.answer,
            "finished": answer.finished,
        },
    }


def _finish_reason(answer: Answer) -> str:
    return "stop" if answer.finished else "length"


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens,
        "total_tokens": answer.prompt_tokens + answer.tokens,
    }
