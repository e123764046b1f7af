"""The span constraint for vLLM's V2 model runner, which vLLM uses by default from 0.32 on.

vllm serve FOLDER --logits-processors recall_spans.vllm_v2:RecallSpans
"""

import dataclasses
from typing import Any

import numpy as np
import torch
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcessor,
    LogitsProcRequestState,
)

from recall_spans.logits import mask_
from recall_spans.machine import Response
from recall_spans.serving import masks_of
from recall_spans.vllm_requests import (
    Requests,
    Settings,
    check_engine,
    engine_rules,
    engine_table,
    settings_of,
)


@dataclasses.dataclass
class _Request:
    settings: Settings
    # The state after the token at `position` of the sequence; None before the first mask.
    response: Response | None = None
    position: int = -1


class RecallSpans(LogitsProcessor):
    """Constrains the recall spans of every request that doesn't switch it off.

    The state machine runs on the host, so a step with a constrained request waits for the tokens
    of the step before.
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise an error for settings of the wrong type (`vllm_requests.Settings`)."""
        settings_of(sampling_params)

    def __init__(self, vllm_config: Any, req_states: LogitsProcRequestState):
        """Read the rules and the tokens of the engine's model."""
        check_engine(vllm_config)
        rules = engine_rules(vllm_config)
        self._requests = Requests(vllm_config, rules, engine_table(vllm_config, rules))
        self._states = req_states
        self._slots: dict[int, _Request] = {}

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Begin with a request in a slot; return whether its logits are masked."""
        self._slots.pop(req_idx, None)
        settings = settings_of(sampling_params)
        if settings.constrained:
            self._slots[req_idx] = _Request(settings)
        return settings.constrained

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        """Mask the rows of the constrained requests, in place."""
        if not any(int(slot) in self._slots for slot in ctx.idx_mapping_np):
            return logits
        # One copy to the host for all rows.
        fields = [ctx.expanded_idx_mapping, ctx.input_ids, ctx.pos]
        columns = torch.stack([field.long() for field in fields]).tolist()
        rows, allowed = [], []
        for row, (slot, token, position) in enumerate(zip(*columns, strict=True)):
            request = self._slots.get(slot)
            # A row inside the prompt is sampled for nothing.
            if request is None or position + 1 < self._states.prompt_len.np[slot]:
                continue
            rows.append(row)
            allowed.append((row, self._at(slot, request, token, position).allowed()))
        mask_(logits, masks_of(allowed), rows, self._requests.rules.vocab_size)
        return logits

    def _at(self, slot: int, request: _Request, token: int, position: int) -> Response:
        """Return the state of a request after `token`, at a position of its sequence."""
        if request.response is not None and position == request.position:
            return request.response
        if request.response is not None and position == request.position + 1:
            request.response.advance([token])
        else:
            # The first mask of the request, or of one that resumes.
            length = int(self._states.prompt_len.np[slot])
            tokens = self._states.all_token_ids.gpu[slot, :position].cpu().numpy()
            tokens = np.append(tokens, np.int32(token))
            request.response = self._requests.start(request.settings, tokens[:length])
            request.response.advance(tokens[length:])
        request.position = position
        return request.response
