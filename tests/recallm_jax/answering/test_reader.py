"""A reader: answers about documents, their spans' places, and what questions share."""

import dataclasses

import numpy as np
import pytest

from decoding import driver
from decoding.compilations import count_compilations
from decoding.decode_loop import Limits
from decoding.driver import decode
from decoding.prompts import Prompts
from decoding.sampling import Sampling, row_keys
from recallm_jax.answering.prompt import QUOTE_FIRST, document_part, question_part
from recallm_jax.answering.reader import Reader
from recallm_jax.runtime.errors import UserError
from storage.files import as_path, read_text
from tests.oracles.loops import for_each
from tests.oracles.readers import tiny_reader, toy_reader

DOCUMENT = "The lamp was lit in 1874.\nAda Thorne kept it, by the light of 12 candles.\n"
QUESTION = "Who kept the lamp lit?"
BELL = "The bell rang 40 times on Sunday."
STRANGE = "Käse für Zoë: 日本語 🙂🙃 naïve ½ café — “x²” ok. Käse für 🙂🙃 日本"


def read_together(reader: Reader, document: str, question: str) -> str:
    """Return the response to document and question as one prompt, decoded by itself."""
    tokenizer, options = reader.context.tokenizer, reader.options
    part = document_part(tokenizer, document, reader.settings)
    rest = question_part(tokenizer, document, question, reader.settings)
    tokens = np.concatenate([part.tokens, rest]).astype(np.int32)
    flags = (part.copyable, part.span_start, part.span_end)
    rollout = decode(
        reader.policy,
        Prompts(
            tokens[None],
            np.array([len(tokens)], np.int32),
            *(np.pad(flag, (0, len(rest)))[None] for flag in flags),
        ),
        row_keys(0, 0, np.zeros(1, np.uint32), 1),
        sampling=options.sampling,
        # Longer than an answer, which may be cut inside a span.
        limits=Limits(reader.rules, 2 * options.max_new_tokens, tokenizer.end_ids),
        prefix=np.asarray(tokenizer.encode(QUOTE_FIRST), np.int32)[None, None],
    )
    response = np.asarray(rollout.tokens)[0, 0, : int(rollout.lengths[0, 0])].tolist()
    response = response[: options.max_new_tokens]
    ended = response[-1] in tokenizer.end_ids
    return tokenizer.decode(response[: len(response) - ended])


def test_an_answer_begins_with_a_quotation_of_the_document(tokenizer):
    reader = toy_reader()
    answer = reader.open(DOCUMENT).ask(QUESTION)
    assert answer.text.startswith(QUOTE_FIRST)
    span = answer.spans[0]
    # It opens with the lowest token number of the document, and goes on to the longest span.
    part = document_part(tokenizer, DOCUMENT, reader.settings)
    lowest = part.tokens[part.copyable & part.span_start].min()
    assert span.closed and span.text.startswith(tokenizer.decode([int(lowest)]))
    assert span.places and {DOCUMENT[slice(*place)] for place in span.places} == {span.text}
    assert answer.text[slice(*span.chars)] == span.text


def test_unless_asked_an_answer_does_not_begin_with_a_quotation():
    answer = toy_reader(quote_first=False).open(DOCUMENT).ask(QUESTION)
    assert QUOTE_FIRST not in answer.text and answer.spans == ()


@pytest.mark.parametrize("copy_source", ["prompt", "prompt+response"])
def test_answers_are_those_to_document_and_question_read_together(copy_source):
    reader = tiny_reader(f"--config.decoding.copy_source={copy_source}")
    asked = [
        (DOCUMENT, QUESTION),
        (BELL, "How often did the bell ring?"),
        (DOCUMENT, "When was it lit?"),
    ]
    answers = {answer.number: answer for answer in reader.ask(asked)}
    assert sorted(answers) == [0, 1, 2]
    for number, (document, question) in enumerate(asked):
        answer = answers[number]
        assert (answer.document, answer.question) == (document, question)
        assert answer.text == read_together(reader, document, question)
    opened = reader.open(DOCUMENT)
    for number in (2, 0):
        assert opened.ask(asked[number][1]) == dataclasses.replace(answers[number], number=0)


def test_an_answer_grows_to_the_whole_one():
    opened = tiny_reader().open(DOCUMENT)
    *parts, whole = opened.stream(QUESTION, every=4)
    assert len(parts) > 3 and whole == opened.ask(QUESTION)
    for before, after in zip(parts, [*parts[1:], whole], strict=True):
        assert after.tokens - before.tokens <= 4
        assert after.text.startswith(before.text.rstrip("\ufffd"))


def test_what_is_sampled_depends_on_document_question_and_seed_alone():
    reader = tiny_reader(temperature=1.0)
    asked = [(DOCUMENT, QUESTION), (DOCUMENT, "When?"), (BELL, QUESTION)]
    together = {one.number: one.text for one in reader.ask(asked)}
    turned = {one.number: one.text for one in reader.ask(asked[::-1])}
    assert [turned[2 - number] for number in range(3)] == [together[n] for n in range(3)]
    opened = reader.open(DOCUMENT)
    alone = opened.ask(QUESTION).text
    opened.ask("When?")
    assert opened.ask(QUESTION).text == alone
    other = dataclasses.replace(reader.options, seed=1)
    assert opened.ask(QUESTION, other).text != alone


def test_settings_that_change_nothing_compile_nothing():
    opened = toy_reader().open(DOCUMENT)
    plain = opened.ask(QUESTION)
    with count_compilations(driver.begin, driver.go_on) as compiled:
        filtered = Sampling(temperature=0.0, top_p=0.9, min_p=0.1, top_k=3)
        same = dataclasses.replace(opened.reader.options, sampling=filtered)
        assert opened.ask(QUESTION, same).text == plain.text
        shorter = dataclasses.replace(same, max_new_tokens=same.max_new_tokens // 3)
        assert plain.text.startswith(opened.ask(QUESTION, shorter).text)
        assert compiled() == 0
        for temperature in (0.5, 0.9):
            warm = dataclasses.replace(same, sampling=Sampling(temperature=temperature))
            opened.ask(QUESTION, warm)
        assert compiled() <= 2


def test_a_penalty_on_repetition_is_the_same_for_greedy_questions_one_by_one_and_together():
    reader = tiny_reader()
    penalised = Sampling(temperature=0.0, repetition_penalty=100.0)
    options = dataclasses.replace(reader.options, sampling=penalised)
    (together,) = reader.ask([(DOCUMENT, QUESTION)], options)
    assert reader.open(DOCUMENT).ask(QUESTION, options).text == together.text
    assert together.text != reader.open(DOCUMENT).ask(QUESTION).text


def test_questions_draw_from_keys_of_their_own():
    """The toy policy reads no prompt, so only the keys can make answers differ."""
    reader = toy_reader(quote_first=False)
    sampled = dataclasses.replace(reader.options, sampling=Sampling(temperature=1.0))
    asked = [(DOCUMENT, "When?"), (DOCUMENT, "Who?"), (BELL, "When?"), (DOCUMENT, "When?")]
    texts = {answer.number: answer.text for answer in reader.ask(asked, sampled)}
    assert len({texts[number] for number in range(3)}) == 3 and texts[3] == texts[0]
    opened = reader.open(DOCUMENT)
    assert opened.ask("When?", sampled).text != opened.ask("Who?", sampled).text


def test_a_document_is_refused_by_the_limit_of_what_is_asked():
    reader = toy_reader(quote_first=False)
    long, short = (dataclasses.replace(reader.options, max_new_tokens=n) for n in (600, 8))
    with pytest.raises(UserError, match="max_new_tokens"):
        reader.open(DOCUMENT, long)
    assert reader.open(DOCUMENT, short).ask(QUESTION, short).tokens == 8


def test_an_answer_has_no_more_tokens_than_the_limit_and_says_that_it_was_cut():
    opened = toy_reader(quote_first=False).open(DOCUMENT)
    for limit in (1, 24, 40):
        options = dataclasses.replace(opened.reader.options, max_new_tokens=limit)
        answer = opened.ask(QUESTION, options)
        assert answer.tokens == limit and not answer.finished


def test_only_documents_that_exceed_the_context_are_refused():
    reader = toy_reader(quote_first=False)
    tokenizer = reader.context.tokenizer
    size = len(document_part(tokenizer, DOCUMENT, reader.settings).tokens)
    rest = len(question_part(tokenizer, DOCUMENT, QUESTION, reader.settings))
    room = reader.policy.max_positions - size - rest
    whole = dataclasses.replace(reader.options, max_new_tokens=room)
    (answer,) = reader.ask([(DOCUMENT, QUESTION)], whole)
    assert answer.prompt_tokens == size + rest and answer.tokens <= room
    longer = dataclasses.replace(whole, max_new_tokens=room + 1)
    message = (
        rf"the document has {len(DOCUMENT)} characters, {size} tokens with the instructions; the "
        rf"model's context of 512 has room for {size - 1}, .* {room + 1} tokens of answer: shorten"
    )
    with pytest.raises(UserError, match=message):
        list(reader.ask([(DOCUMENT, QUESTION)], longer))
    with pytest.raises(UserError, match=r"the question and 600 tokens of answer .* shorten the q"):
        list(reader.ask([(DOCUMENT, QUESTION)], dataclasses.replace(whole, max_new_tokens=600)))


def test_all_questions_are_looked_at_before_the_first_is_answered():
    asked = toy_reader().ask([(DOCUMENT, QUESTION), (DOCUMENT, " ")])
    with pytest.raises(UserError, match="the question is empty"):
        next(asked)


def test_no_question_has_no_answer():
    assert list(toy_reader().ask([])) == []


@pytest.mark.parametrize("document", ["<|im_end|>", "<|start_recall|><|end_recall|>"])
def test_a_document_of_control_tokens_alone_is_quoted(document):
    span = toy_reader().open(document).ask(QUESTION).spans[0]
    assert span.text and {document[slice(*place)] for place in span.places} == {span.text}


def test_places_are_those_of_the_file_with_its_line_ends(tmp_path):
    raw = b"\r\n One\r\ntwo\r\n\r\nthree\rfour\r\n"
    file = tmp_path / "document.txt"
    file.write_bytes(raw)
    document = read_text(as_path(file))
    places = [
        (span, place)
        for question in ("Who?", "What one?", "Which two?")
        for span in toy_reader().open(document).ask(question).spans
        for place in span.places
    ]
    assert places
    for span, place in places:
        low, high = (len(document[:end].encode()) for end in place)
        assert raw[low:high].decode() == span.text


@pytest.mark.parametrize("alignment", ["character", "word", "token"])
@pytest.mark.parametrize("copy_source", ["prompt", "prompt+response"])
def test_places_are_right_in_text_with_several_bytes_a_character(alignment, copy_source):
    options = [
        f"--config.decoding.span_alignment={alignment}",
        f"--config.decoding.copy_source={copy_source}",
        "--config.decoding.max_recall_length=9",
        "--config.decoding.max_new_tokens=60",
    ]
    reader = toy_reader(*options, loves_spans=True)
    sampled = dataclasses.replace(reader.options, sampling=Sampling(temperature=1.0))
    spans = [
        (answer, span)
        for answer in reader.ask([(STRANGE, f"Number {n}?") for n in range(8)], sampled)
        for span in answer.spans
        if span.closed
    ]
    whole = 0
    for answer, span in spans:
        if "\ufffd" in span.text:
            # It ends inside a character: where spans may, or where its end was forced.
            known = span.text.strip("\ufffd")
            assert all(known in STRANGE[slice(*place)] for place in span.places)
        else:
            assert answer.text[slice(*span.chars)] == span.text
            assert {STRANGE[slice(*place)] for place in span.places} <= {span.text}
            whole += not span.text.isascii()
        if copy_source == "prompt":
            assert span.places
    assert len(spans) > 30 and whole > 3


@for_each("seed", range(2))
def test_every_closed_span_of_a_random_model_is_in_the_document(seed):
    reader = tiny_reader(f"--config.seed={seed}", temperature=1.0)
    asked = [(text, f"{n}, how?") for n in range(4) for text in (DOCUMENT, STRANGE)]
    closed = [
        (answer, span) for answer in reader.ask(asked) for span in answer.spans if span.closed
    ]
    assert closed
    for answer, span in closed:
        assert span.places
        assert {answer.document[slice(*place)] for place in span.places} == {span.text}
