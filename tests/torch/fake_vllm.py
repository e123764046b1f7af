"""The interfaces of vLLM's logits processors and drivers of them, written from their contracts.

vLLM itself needs a GPU. The names, the fields and their order are those of vLLM 0.33: of
`vllm.v1.sample.logits_processor` for the V1 runner, and of
`vllm.v1.worker.gpu.sample.logits_processor` for the V2 runner.
"""

import abc
import dataclasses
import enum
import sys
import types
from typing import Any

import numpy as np
import torch


class MoveDirectionality(enum.Enum):
    UNIDIRECTIONAL = enum.auto()
    SWAP = enum.auto()


@dataclasses.dataclass(frozen=True)
class BatchUpdate:
    """Changes of the batch, to be followed in this order: removed, added, moved."""

    batch_size: int
    removed: list
    # (row, sampling parameters, prompt ids or None, the growing list of output ids)
    added: list
    # (row, row, direction)
    moved: list


class V1LogitsProcessor(abc.ABC):
    @classmethod
    def validate_params(cls, sampling_params):
        return None

    @abc.abstractmethod
    def __init__(self, vllm_config, device, is_pin_memory): ...

    @abc.abstractmethod
    def apply(self, logits): ...

    @abc.abstractmethod
    def is_argmax_invariant(self): ...

    @abc.abstractmethod
    def update_state(self, batch_update): ...


@dataclasses.dataclass(frozen=True)
class LogitsProcRequestState:
    device: torch.device
    max_num_reqs: int
    vocab_size: int
    all_token_ids: Any
    prompt_len: Any
    prefill_len: Any
    total_len: Any


@dataclasses.dataclass(frozen=True)
class LogitsContext:
    expanded_idx_mapping: torch.Tensor
    idx_mapping: torch.Tensor
    idx_mapping_np: np.ndarray
    expanded_local_pos: torch.Tensor
    input_ids: torch.Tensor
    pos: torch.Tensor
    seq_lens_upper_bound_np: np.ndarray


class V2LogitsProcessor(abc.ABC):
    @classmethod
    def validate_params(cls, sampling_params):
        return None

    def add_request(self, req_idx, sampling_params):
        return True

    def apply_staged_writes(self):
        return None

    @abc.abstractmethod
    def apply(self, logits, ctx): ...


def modules() -> dict[str, types.ModuleType]:
    """Return the modules of vLLM that the processors import, by name."""
    v1 = types.ModuleType("vllm.v1.sample.logits_processor")
    v1.LogitsProcessor = V1LogitsProcessor
    v1.BatchUpdate, v1.MoveDirectionality = BatchUpdate, MoveDirectionality
    v2 = types.ModuleType("vllm.v1.worker.gpu.sample.logits_processor")
    v2.LogitsProcessor, v2.LogitsContext = V2LogitsProcessor, LogitsContext
    v2.LogitsProcRequestState = LogitsProcRequestState
    found = {v1.__name__: v1, v2.__name__: v2}
    for name in list(found):
        parts = name.split(".")
        for size in range(1, len(parts)):
            parent = ".".join(parts[:size])
            found.setdefault(parent, types.ModuleType(parent)).__path__ = []
    return found


def install() -> None:
    """Let the processors import the interfaces from here."""
    for name, module in modules().items():
        sys.modules.setdefault(name, module)


@dataclasses.dataclass
class SamplingParams:
    max_tokens: int | None = 24
    extra_args: dict | None = None


@dataclasses.dataclass
class Request:
    params: SamplingParams
    prompt: list[int] | None
    output: list[int] = dataclasses.field(default_factory=list)
    # The newest token, while the output has -1 for it.
    sampled: int | None = None


def engine_config(fields: dict, **changes) -> types.SimpleNamespace:
    """Return what the processors read of an engine's config, with rules in the model's."""
    hf_config = types.SimpleNamespace(to_dict=lambda: {"recall_spans": fields})
    model = types.SimpleNamespace(
        model="FOLDER",
        tokenizer="FOLDER",
        tokenizer_revision=None,
        max_model_len=256,
        hf_config=hf_config,
    )
    values = {"model_config": model, "speculative_config": None, **changes}
    return types.SimpleNamespace(**values)


class V1Driver:
    """A persistent batch of the V1 runner: rows without gaps, kept so by moves.

    With asynchronous scheduling the newest output id is -1 until the logits are processed.
    """

    def __init__(self, processor, *, asynchronous: bool):
        self.processor, self.asynchronous = processor, asynchronous
        self.rows: list[Request] = []

    def step(self, leaving: set[int], entering: list[Request], swap: tuple[int, int] | None, model):
        """Change the batch, then sample a token for each row with `model(request, logits)`."""
        removed = sorted(leaving, reverse=True)
        rows: list[Request | None] = list(self.rows)
        for row in removed:
            rows[row] = None
        added, moved = [], []
        holes = sorted(leaving)
        for request in entering:
            if holes:
                # A request that enters takes the row of one that leaves, which is then not named
                # as removed.
                row = holes.pop(0)
                removed.remove(row)
                rows[row] = request
            else:
                row = len(rows)
                rows.append(request)
            added.append((row, request.params, request.prompt, request.output))
        while holes:
            hole, last = holes.pop(0), len(rows) - 1
            while last > hole and rows[last] is None:
                last -= 1
            if last <= hole:
                break
            rows[hole], rows[last] = rows[last], None
            moved.append((last, hole, MoveDirectionality.UNIDIRECTIONAL))
        self.rows = [request for request in rows if request is not None]
        if swap is not None and max(swap) < len(self.rows):
            first, second = swap
            self.rows[first], self.rows[second] = self.rows[second], self.rows[first]
            moved.append((first, second, MoveDirectionality.SWAP))
        changed = removed or added or moved
        update = BatchUpdate(len(self.rows), removed, added, moved) if changed else None
        self.processor.update_state(update)
        for request in self.rows:
            if request.sampled is not None:
                request.output[-1], request.sampled = request.sampled, None
        logits = model(self.rows)
        masked = self.processor.apply(logits)
        for request, row in zip(self.rows, masked, strict=True):
            token = int(row.argmax())
            request.output.append(-1 if self.asynchronous else token)
            if self.asynchronous:
                request.sampled = token
        return masked
