"""Chat completions: what a request may hold, and how an answer comes back in one or in chunks."""

import dataclasses

import pytest

from decoding.sampling import Sampling
from recallm_jax.answering.answer import Answer, Span
from recallm_jax.answering.questions import Options
from recallm_jax.serving.chat import Chunks, Served, completion, read_request, split_thought
from recallm_jax.serving.documents import Document
from recallm_jax.serving.errors import BadRequest

SERVED = Served("model", Options(max_new_tokens=100), thinks=True)
TEXT = (
    "I look: <|start_recall|>the bell<|end_recall|>, 2 < 3.\n</think>\n"
    "It is <|start_recall|>old<|end_recall|>.\nAnswer: old"
)
SPANS = (Span("the bell", (24, 32), ((0, 8),), True), Span("old", (100, 103), ((12, 15),), True))


def request_of(**fields):
    body = {
        "model": "model",
        "messages": [{"role": "user", "content": "<document>the bell is old</document>How old?"}],
    }
    return read_request(body | fields, SERVED)


def answer_of(text, *, finished=True, spans=()):
    return Answer(0, "the bell is old", "How old?", text, "old", spans, finished, 50, 20)


def test_a_question_with_a_document_is_an_inquiry():
    request = request_of()
    assert request.documents == (Document("the bell is old"),) and not request.stream
    inquiry = request.inquiry
    assert (inquiry.document, inquiry.question) == ("the bell is old", "How old?")
    assert inquiry.system is None and inquiry.options == SERVED.options


def test_messages_are_joined_in_their_roles():
    part = {"type": "document", "text": "A", "title": "a"}
    messages = [
        {"role": "system", "content": "Quote."},
        {"role": "user", "content": [part, {"type": "text", "text": "One?"}]},
        {"role": "user", "content": "<document>B</document>Two?"},
    ]
    request = request_of(messages=messages)
    assert request.inquiry.system == "Quote."
    assert request.inquiry.question == "One?\nTwo?"
    assert request.inquiry.document == "A\n\nB"


def test_options_are_those_of_the_request_within_the_limits_of_the_service():
    request = request_of(
        temperature=0.5, top_p=0.9, seed=3, max_tokens=7, stream=True, n=1, user="me", stop=None
    )
    assert request.stream
    assert request.inquiry.options == Options(7, Sampling(temperature=0.5, top_p=0.9), 3)
    assert request_of(max_completion_tokens=900).inquiry.options.max_new_tokens == 100


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": "other"}, "model", "model 'other' is not served here; use 'model'"),
        ({"n": 2}, "n", "n = 2 is not supported; leave it out"),
        ({"tools": [{}]}, "tools", r"tools = \[\{\}\] is not supported"),
        ({"audio": {}}, "audio", "audio is not supported; leave it out"),
        ({"temperature": "hot"}, "temperature", "temperature = 'hot' must be a number"),
        ({"temperature": -1}, "temperature", r"temperature -1.0 must be 0 \(greedy\)"),
        ({"top_p": 2}, "top_p", r"top_p 2.0 must lie in \(0, 1\]"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens = 0 must be a whole number from 1 up"),
        ({"max_tokens": True}, "max_tokens", "max_tokens = True must be a whole number"),
        ({"seed": -1}, "seed", "seed = -1 must be a whole number from 0"),
        ({"stream": "yes"}, "stream", "stream = 'yes' must be true or false"),
        ({"messages": []}, "messages", "messages must be a list with at least one message"),
        ({"messages": "hi"}, "messages", "messages must be a list"),
        ({"messages": [3]}, "messages[0]", r"messages\[0\] must be an object"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "messages", "hold no document"),
        (
            {"messages": [{"role": "assistant", "content": "Hi"}]},
            "messages[0].role",
            "questions are answered one by one",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages[0].content",
            "must be a text or a list of parts",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
            "of type 'image_url' is not supported",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_its_field(fields, param, message):
    with pytest.raises(BadRequest, match=message) as refused:
        request_of(**fields)
    assert refused.value.param == param


@pytest.mark.parametrize("body", [[], "text", None, 3])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(BadRequest, match="the body must be a JSON object"):
        read_request(body, SERVED)


def test_a_completion_has_thought_reply_citations_and_the_whole_response():
    found = completion(request_of(), answer_of(TEXT, spans=SPANS))
    (choice,) = found["choices"]
    message = choice["message"]
    assert message["reasoning_content"] == "I look: the bell, 2 < 3.\n"
    assert message["content"] == "It is old.\nAnswer: old"
    assert [(one["start"], one["end"]) for one in message["citations"]] == [(0, 8), (12, 15)]
    assert message["recall"] == {"text": TEXT, "answer": "old", "finished": True}
    assert choice["finish_reason"] == "stop"
    assert found["usage"] == {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70}
    cut = completion(request_of(), answer_of("I look", finished=False))["choices"][0]
    assert cut["finish_reason"] == "length" and cut["message"]["content"] == ""


def test_a_model_that_does_not_think_replies_at_once():
    assert split_thought("Answer: old", thinks=False) == ("", "Answer: old")
    assert split_thought("Answer: old", thinks=True) == ("Answer: old", "")
    assert split_thought("a</think>b", thinks=False) == ("a", "b")


@pytest.mark.parametrize("size", [1, 3, 8])
def test_chunks_make_the_completion_and_show_no_half_tags(size):
    request = dataclasses.replace(request_of(), stream=True)
    chunks, sent = Chunks(request), []
    for end in range(size, len(TEXT) + size, size):
        sent += chunks.of(answer_of(TEXT[:end], finished=end >= len(TEXT)), last=False)
    sent += chunks.of(answer_of(TEXT, spans=SPANS), last=True)
    deltas = [one["choices"][0]["delta"] for one in sent]
    whole = completion(request, answer_of(TEXT, spans=SPANS))["choices"][0]["message"]
    for name in ("reasoning_content", "content"):
        assert "".join(delta.get(name, "") for delta in deltas) == whole[name]
    assert [delta.get("role") for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    assert deltas[-1]["citations"] == whole["citations"]
    reasons = [one["choices"][0]["finish_reason"] for one in sent]
    assert reasons == [*[None] * (len(sent) - 1), "stop"]
    assert len({one["id"] for one in sent}) == 1 and len(sent) > 3
