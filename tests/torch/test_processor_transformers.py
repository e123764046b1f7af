"""`generate` under the span constraint: a small random model, and SmolLM2 beside our decoder."""

import json

import numpy as np
import pytest
import torch
import transformers

from recall_spans.hugging_face import RecallSpans
from recall_spans.rules import RecallSpansError, Rules
from recall_spans.tokens import TokenTable, byte_of_character

# Every byte is a token.
START, END, CHAT, PAD, SIZE, ROWS = 256, 257, 258, 259, 260, 272
TABLE = TokenTable(
    byte_of_character(),
    {START: "<|start_recall|>", END: "<|end_recall|>", CHAT: "<|chat|>", PAD: "<|pad|>"},
    SIZE,
)
FIELDS = {
    "start_token_id": START,
    "end_token_id": END,
    "vocab_size": SIZE,
    "barrier_token_ids": (START, END, CHAT, PAD),
    "min_length": 2,
    "max_length": 8,
    "span_alignment": "word",
    "copy_source": "prompt",
    "paper_compatible": False,
}
DOCUMENTS = [
    "Ada Thorne kept the light until 1901.",
    "Der Wärter schrieb täglich: Öl, Docht, 12 Liter.",
    "灯台は岩の上に立つ。 The lamp.",
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=ROWS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=CHAT,
        pad_token_id=PAD,
    )
    made = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        # Random text with many spans.
        made.lm_head.weight *= 4
    made.lm_head.bias = torch.nn.Parameter(torch.zeros(ROWS))
    with torch.no_grad():
        made.lm_head.bias[START] = 4.0
        made.lm_head.bias[CHAT] = -1e9
        # Rows without a token are the likeliest.
        made.lm_head.bias[SIZE:] = 50.0
    return made


def prompt_of(document):
    return [CHAT, *b"Copy: ", *document.encode(), CHAT, *b"Go: "]


def batch_of(prompts):
    size = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (size - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (size - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def processor_of(changes=None, **options):
    rules = Rules(**{**FIELDS, **(changes or {})})
    return RecallSpans(rules, TABLE, **{"max_new_tokens": 40, **options})


def responses(model, prompts, processor, **options):
    options = {"do_sample": True, "max_new_tokens": 40, **options}
    batch = batch_of(prompts)
    torch.manual_seed(1)
    with torch.no_grad():
        out = model.generate(**batch, logits_processor=[processor], **options)
    return out[:, batch["input_ids"].shape[1] :].tolist()


def spans_of(response):
    """Return the copied ids of each span; fails if one is nested, stray or open."""
    spans, inside = [], None
    for token in response:
        if token == START:
            assert inside is None
            inside = []
        elif token == END:
            assert inside is not None
            spans.append(inside)
            inside = None
        elif inside is not None:
            inside.append(token)
    assert inside is None
    return spans


def begins_word(raw, place):
    """Return whether no word and no character goes on at a byte of a text."""
    try:
        before, after = raw[:place].decode(), raw[place:].decode()
    except UnicodeDecodeError:
        return False
    return not (before[-1:].isalnum() and after[:1].isalnum())


def test_sampled_spans_are_words_of_their_own_document_and_all_are_closed(model):
    prompts = [prompt_of(document) for document in DOCUMENTS]
    processor = processor_of(documents=[[document] for document in DOCUMENTS])
    rows = responses(model, prompts, processor, num_return_sequences=6)
    found = 0
    for number, row in enumerate(rows):
        assert max(row) < SIZE
        raw = DOCUMENTS[number // 6].encode()
        for span in spans_of(row):
            copied = bytes(span)
            places = [p for p in range(len(raw)) if raw.startswith(copied, p)]
            assert any(begins_word(raw, p) for p in places)
            # A shorter one has come to the document's end.
            assert 2 <= len(span) <= 8 or raw.endswith(copied)
            found += 1
    assert found > 40


def test_a_row_of_a_padded_batch_is_masked_as_if_alone(model):
    prompts = [prompt_of(document) for document in DOCUMENTS]
    together = responses(model, prompts, processor_of(), do_sample=False)
    for prompt, row in zip(prompts, together, strict=True):
        (alone,) = responses(model, [prompt], processor_of(), do_sample=False)
        assert alone == row[: len(alone)]


def test_a_processor_serves_one_call_after_another(model):
    first, second = ([prompt_of(document)] for document in DOCUMENTS[:2])
    processor = processor_of()
    again = [responses(model, prompts, processor) for prompts in (first, second, first, first)]
    fresh = [responses(model, prompts, processor_of()) for prompts in (first, second)]
    assert again == [fresh[0], fresh[1], fresh[0], fresh[0]]


def test_a_next_prompt_of_just_one_token_more_is_not_taken_for_the_same_call():
    processor = processor_of(max_new_tokens=None)
    scores = torch.zeros(1, ROWS)
    # The state before is inside a span, which would leave next to nothing allowed.
    processor(torch.tensor([[CHAT, *b"abcabd"]]), scores)
    processor(torch.tensor([[CHAT, *b"abcabd", START]]), scores)
    out = processor(torch.tensor([[CHAT, *b"xyzxyz", START, 5]]), scores)
    assert torch.isfinite(out[0, :SIZE]).sum() == SIZE - 1


def test_a_response_can_be_made_to_begin_with_a_span(model):
    prompt = [*prompt_of(DOCUMENTS[0]), *b"It says: ", START]
    processor = processor_of(prefix_length=10, documents=[[DOCUMENTS[0]]], max_new_tokens=6)
    (row,) = responses(model, [prompt], processor, max_new_tokens=6)
    (span, *_) = spans_of([START, *row])
    assert bytes(span) in DOCUMENTS[0].encode()
    # As part of the prompt, the start token opens nothing.
    (row,) = responses(model, [prompt], processor_of(max_new_tokens=6), max_new_tokens=6)
    assert spans_of(row) is not None


def test_scores_that_came_in_stay_as_they_were():
    scores = torch.full((1, ROWS), torch.nan, dtype=torch.bfloat16)
    processor = processor_of(prefix_length=1)
    out = processor(torch.tensor([[CHAT, *b"ab ab ac", START]]), scores)
    assert scores.isnan().all()
    allowed = torch.isfinite(out[0]).nonzero()[:, 0].tolist()
    assert allowed == sorted({ord("a"), ord(" ")})


def test_beam_search_is_refused_in_one_line(model):
    with pytest.raises(RecallSpansError, match=r"beam search and assisted .*num_beams=1"):
        responses(model, [prompt_of(DOCUMENTS[0])], processor_of(), num_beams=3)


def test_responses_longer_than_the_processor_was_told_are_named(model):
    with pytest.raises(RecallSpansError, match=r"the rows go on after max_new_tokens = 4 of this"):
        responses(model, [prompt_of(DOCUMENTS[0])], processor_of(max_new_tokens=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": "text"}, "documents must hold a list of texts for each prompt"),
        ({"documents": ["text"]}, "such as [[document]] for one prompt with one document"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0 must be at least 1"),
    ],
)
def test_options_that_fit_no_prompts_are_named(options, message):
    with pytest.raises(RecallSpansError) as error:
        processor_of(**options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": [["no such text"]]}, "doesn't hold the document 'no such text' word for"),
        ({"documents": [["a"], ["b"]]}, "entries for 2 prompts, but there are 3 rows"),
        ({"prefix_length": 99}, "prefix_length = 99 must lie between 0 and the 3 tokens"),
        ({"changes": {"paper_compatible": True}}, "give pad_token_id"),
    ],
)
def test_options_that_do_not_fit_the_prompts_are_named(options, message):
    with pytest.raises(RecallSpansError) as error:
        processor_of(**options)(torch.tensor([[CHAT, 97, 98]] * 3), torch.zeros(3, ROWS))
    assert message in str(error.value)


QUESTIONS = [
    (
        "The lighthouse of Skerry Point was lit in 1874.\nIts keeper was Ada Thorne, who kept the "
        "log until 1901.\nThe lamp burned 12 litres of colza oil a night.",
        "How much oil did the lamp burn a night?",
    ),
    (
        "Key: amber. Value: 48213.\nKey: cobalt. Value: 90177.\nKey: amber wood. Value: 33056.",
        "What is the value of cobalt?",
    ),
    ("naïve café — 灯台は岩の上に立つ。 The café closed in 1987.", "When did the café close?"),
]


@pytest.mark.parametrize("copy_source", ["prompt", "prompt+response"])
def test_greedy_answers_have_the_tokens_and_spans_of_our_decoder(smollm2, run_ours, copy_source):
    settings = json.loads((smollm2 / "config.json").read_text())
    asked = [part for question in QUESTIONS for part in question]
    written = run_ours(
        "tests/torch/answers.py",
        "--config=configs/quickstart.py",
        f"--config.model.weights={smollm2}",
        "--config.decoding.max_new_tokens=48",
        f"--config.decoding.copy_source={copy_source}",
        "--",
        *asked,
    )
    answers = json.loads(written.splitlines()[-1])
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    rules = {**model.config.recall_spans, "copy_source": copy_source}
    assert rules == {**settings["recall_spans"], "copy_source": copy_source}
    table = RecallSpans.from_folder(smollm2, max_new_tokens=1)._responses._table
    rules = Rules(**{**rules, "barrier_token_ids": tuple(rules["barrier_token_ids"])})
    pad = model.generation_config.pad_token_id
    pad = model.config.eos_token_id if pad is None else pad
    prompts = [answer["prompt"] + answer["prefix"] for answer in answers]
    size = max(map(len, prompts))
    ids = torch.tensor([[pad] * (size - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (size - len(p)) + [1] * len(p) for p in prompts])
    prefix = answers[0]["prefix"]
    processor = RecallSpans(
        rules,
        table,
        max_new_tokens=48 - len(prefix),
        documents=[[document] for document, _ in QUESTIONS],
        prefix_length=len(prefix),
    )
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=48 - len(prefix),
        pad_token_id=pad,
        logits_processor=[processor],
    )
    start, end = rules.start_token_id, rules.end_token_id
    copied = 0
    for answer, row in zip(answers, out[:, size:].tolist(), strict=True):
        theirs = [*prefix, *row][: len(answer["answer"])]
        assert theirs == answer["answer"]
        opens = np.flatnonzero(np.array(theirs) == start) + 1
        closes = np.flatnonzero(np.array(theirs) == end)
        assert [[a, b] for a, b in zip(opens.tolist(), closes.tolist(), strict=True)] == (
            answer["spans"]
        )
        copied += sum(b - a for a, b in answer["spans"])
    assert copied > 12
