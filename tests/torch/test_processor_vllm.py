"""The processors of vLLM's two runners, driven as their contracts say."""

import importlib
import types

import numpy as np
import pytest
import torch

from recall_spans import vllm_requests
from recall_spans.rules import RecallSpansError, Rules, read_json, rules_of
from recall_spans.serving import Responses
from recall_spans.tokens import TokenTable, byte_of_character, table_of_json
from tests.torch import fake_vllm
from tests.torch.fake_vllm import Request, SamplingParams, engine_config

fake_vllm.install()

vllm_v1 = importlib.import_module("recall_spans.vllm_v1")
vllm_v2 = importlib.import_module("recall_spans.vllm_v2")

# Every byte is a token.
START, END, CHAT, SIZE, ROWS = 256, 257, 258, 259, 264
TABLE = TokenTable(
    byte_of_character(), {START: "<|start_recall|>", END: "<|end_recall|>", CHAT: "<|c|>"}, SIZE
)
FIELDS = {
    "start_token_id": START,
    "end_token_id": END,
    "vocab_size": SIZE,
    "barrier_token_ids": [START, END, CHAT],
    "min_length": 1,
    "max_length": 6,
    "span_alignment": "character",
    "copy_source": "prompt+response",
    "paper_compatible": False,
}
RULES = Rules(**{**FIELDS, "barrier_token_ids": (START, END, CHAT)})


@pytest.fixture(autouse=True)
def _tokens_of_bytes(monkeypatch):
    for module in (vllm_v1, vllm_v2):
        monkeypatch.setattr(module, "engine_table", lambda vllm_config, rules: TABLE)


def expected(request: Request) -> np.ndarray:
    """Return which ids may follow the known output of a request, worked out from its beginning."""
    settings = vllm_requests.settings_of(request.params)
    if not settings.constrained:
        return np.ones(ROWS, bool)
    prompt = np.array([] if request.prompt is None else request.prompt, np.int32)
    response = Responses(RULES, TABLE, kept=1).start(
        prompt,
        documents=settings.documents,
        prefix_length=settings.prefix_length,
        budget=min(256 - len(prompt), settings.max_tokens or 256),
    )
    response.advance(token for token in request.output if token >= 0)
    allowed = response.allowed()
    flags = np.arange(ROWS) < SIZE
    if allowed.only is None:
        flags[list(allowed.never)] = False
    else:
        flags[:] = False
        flags[allowed.only] = True
    return flags


def random_request(rng: np.random.Generator) -> Request:
    document = bytes(rng.choice([*b"abcd  "], 30).tolist()).decode()
    prompt = [CHAT, *b"Copy: ", *document.encode(), CHAT]
    extra = [
        None,
        {"recall_documents": [document[3:20]]},
        {"recall_spans": False},
        {"recall_documents": [document], "recall_prefix_length": 2},
    ][rng.integers(4)]
    if extra and "recall_prefix_length" in extra:
        prompt += [ord(":"), START]
    return Request(SamplingParams(int(rng.integers(8, 30)), extra), prompt)


def random_logits(rows: int, rng: np.random.Generator) -> torch.Tensor:
    logits = torch.as_tensor(rng.standard_normal((rows, ROWS)), dtype=torch.float32)
    logits[:, START] += 3
    logits[:, SIZE:] += 9
    return logits


@pytest.mark.parametrize("asynchronous", [False, True])
def test_v1_follows_requests_that_enter_leave_and_move(asynchronous):
    rng = np.random.default_rng(3)
    processor = vllm_v1.RecallSpans(engine_config(FIELDS), torch.device("cpu"), False)
    assert not processor.is_argmax_invariant()
    driver = fake_vllm.V1Driver(processor, asynchronous=asynchronous)
    inside = 0

    def model(requests):
        nonlocal wanted
        wanted = [expected(request) for request in requests]
        return random_logits(len(requests), rng)

    wanted: list[np.ndarray] = []
    for _ in range(150):
        count = len(driver.rows)
        done = {n for n, r in enumerate(driver.rows) if len(r.output) >= r.params.max_tokens}
        leaving = done | {n for n in range(count) if rng.random() < 0.03}
        entering = [random_request(rng) for _ in range(rng.integers(0, 3)) if count < 6]
        swap = tuple(rng.choice(6, 2, replace=False).tolist()) if rng.random() < 0.3 else None
        masked = driver.step(leaving, entering, swap, model)
        for row, flags in zip(masked, wanted, strict=True):
            np.testing.assert_array_equal(torch.isfinite(row).numpy(), flags)
            inside += flags.sum() < 50
    assert inside > 50


def test_v1_takes_up_a_preempted_request_where_it_was():
    processor = vllm_v1.RecallSpans(engine_config(FIELDS), torch.device("cpu"), False)
    request = Request(SamplingParams(), [CHAT, *b"abcabd"], [5, START, *b"ab"])
    update = fake_vllm.BatchUpdate(1, [], [(0, request.params, request.prompt, request.output)], [])
    processor.update_state(update)
    out = processor.apply(torch.zeros(1, ROWS))
    assert torch.isfinite(out[0]).nonzero()[:, 0].tolist() == [*b"cd", END]
    # Tokens whose keys and values were lost are taken back.
    del request.output[-1]
    out = processor.apply(torch.zeros(1, ROWS))
    assert torch.isfinite(out[0]).nonzero()[:, 0].tolist() == [*b"b", END]


class V2Driver:
    """The V2 runner: requests keep their slots, rows of a step come in any order."""

    def __init__(self, slots: int = 5):
        self.ids = types.SimpleNamespace(gpu=torch.zeros((slots, 256), dtype=torch.int32))
        lengths = np.zeros(slots, np.int32)
        self.prompt_len = types.SimpleNamespace(np=lengths, gpu=torch.as_tensor(lengths))
        self.processor = vllm_v2.RecallSpans(
            engine_config(FIELDS),
            fake_vllm.LogitsProcRequestState(
                torch.device("cpu"), slots, ROWS, self.ids, self.prompt_len, None, None
            ),
        )
        self.slots: dict[int, Request] = {}
        self.free = list(range(slots))

    def enter(self, request: Request) -> int:
        """Add a request, or one that was preempted with its output."""
        slot = self.free.pop()
        self.slots[slot] = request
        tokens = [*request.prompt, *request.output]
        self.prompt_len.np[slot] = len(request.prompt)
        self.ids.gpu[slot, : len(tokens)] = torch.tensor(tokens)
        self.processor.add_request(slot, request.params)
        self.processor.apply_staged_writes()
        return slot

    def leave(self, slot: int) -> Request:
        self.free.append(slot)
        return self.slots.pop(slot)

    def step(self, order: list[int], part: set[int], logits: torch.Tensor) -> torch.Tensor:
        """Sample for slots; those in `part` are in the middle of their prompt."""
        sequences = [[*self.slots[slot].prompt, *self.slots[slot].output] for slot in order]
        last = [3 if s in part else len(q) - 1 for s, q in zip(order, sequences, strict=True)]
        slots = torch.tensor(order)
        out = self.processor.apply(
            logits,
            fake_vllm.LogitsContext(
                expanded_idx_mapping=slots,
                idx_mapping=slots,
                idx_mapping_np=np.array(order),
                expanded_local_pos=torch.zeros(len(order)),
                input_ids=torch.tensor([q[n] for q, n in zip(sequences, last, strict=True)]),
                pos=torch.tensor(last),
                seq_lens_upper_bound_np=np.array(last) + 1,
            ),
        )
        for slot, row, sequence in zip(order, out, sequences, strict=True):
            if slot not in part:
                token = int(row.argmax())
                self.slots[slot].output.append(token)
                self.ids.gpu[slot, len(sequence)] = token
        return out


def test_v2_follows_slots_through_reordered_rows_reuse_and_preemption():
    rng = np.random.default_rng(4)
    driver = V2Driver()
    inside = 0
    preempted: list[Request] = []
    for _ in range(200):
        for slot, request in list(driver.slots.items()):
            if len(request.output) >= request.params.max_tokens:
                driver.leave(slot)
            elif request.output and rng.random() < 0.04:
                preempted.append(driver.leave(slot))
        part = set()
        while driver.free and rng.random() < 0.6:
            slot = driver.enter(preempted.pop() if preempted else random_request(rng))
            if rng.random() < 0.3 and not driver.slots[slot].output:
                part.add(slot)
        order = rng.permutation(list(driver.slots)).astype(int).tolist()
        if not order:
            continue
        wanted = [expected(driver.slots[slot]) for slot in order]
        masked = driver.step(order, part, random_logits(len(order), rng))
        for slot, row, flags in zip(order, masked, wanted, strict=True):
            if slot not in part:
                np.testing.assert_array_equal(torch.isfinite(row).numpy(), flags)
                inside += flags.sum() < 50
    assert inside > 50


def test_a_document_that_the_prompt_lacks_ends_no_engine_but_opens_no_span(caplog):
    processor = vllm_v1.RecallSpans(engine_config(FIELDS), torch.device("cpu"), False)
    params = SamplingParams(extra_args={"recall_documents": ["elsewhere"]})
    added = [(0, params, [CHAT, *b"abc"], []), (1, SamplingParams(), None, [])]
    processor.update_state(fake_vllm.BatchUpdate(2, [], added, []))
    out = processor.apply(torch.zeros(2, ROWS))
    assert not torch.isfinite(out[:, [START, END]]).any() and torch.isfinite(out[:, 97]).all()
    assert "no recall span may open in this response: the prompt doesn't hold" in caplog.text


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"recall_documents": "text"}, "recall_documents is not a list of texts"),
        ({"recall_prefix_length": -1}, "recall_prefix_length = -1 is not a number of tokens"),
        ({"recall_spans": "no"}, "recall_spans = 'no' is not true or false"),
    ],
)
@pytest.mark.parametrize("processor", [vllm_v1.RecallSpans, vllm_v2.RecallSpans])
def test_a_request_with_a_wrong_setting_is_refused_as_it_comes(processor, extra, message):
    with pytest.raises(RecallSpansError) as error:
        processor.validate_params(SamplingParams(extra_args=extra))
    assert message in str(error.value)
    processor.validate_params(SamplingParams(extra_args={"recall_spans": 0}))


def test_engines_that_draft_tokens_or_serve_other_models_are_refused():
    with pytest.raises(RecallSpansError, match="without --speculative-config"):
        vllm_v1.RecallSpans(engine_config(FIELDS, speculative_config=1), None, False)
    with pytest.raises(RecallSpansError, match=r"the config.json of FOLDER has no 'recall_spans'"):
        vllm_v2.RecallSpans(engine_config(None), None)


def test_an_engine_reads_the_tokens_of_its_tokenizer(smollm2):
    rules = rules_of(read_json(smollm2, "config.json"), "config.json")
    config = engine_config(FIELDS)
    config.model_config.tokenizer = str(smollm2)
    table = vllm_requests.engine_table(config, rules)
    assert (
        table.pieces == table_of_json(read_json(smollm2, "tokenizer.json"), rules.vocab_size).pieces
    )
