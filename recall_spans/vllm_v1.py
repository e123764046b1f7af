"""The span constraint for vLLM's V1 model runner.

    vllm serve FOLDER --logits-processors recall_spans.vllm_v1:RecallSpans

vLLM up to 0.31 takes this processor; later versions need VLLM_USE_V2_MODEL_RUNNER=0 for it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

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

# Stands for a token that was sampled but is not known to the host yet.
_UNKNOWN = -1


@dataclasses.dataclass
class _Request:
    settings: Settings
    prompt: Sequence[int] | None
    # The engine's own list, which grows as tokens are sampled.
    output: list[int]
    # The state after `consumed` tokens of the output; None before the first mask.
    response: Response | None = None
    consumed: int = 0


class RecallSpans(LogitsProcessor):
    """Constrains the recall spans of every request that doesn't switch it off."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise an error for settings of the wrong type (`vllm_requests.Settings`)."""
        settings_of(sampling_params)

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        """Read the rules and the tokens of the engine's model."""
        del device, is_pin_memory
        check_engine(vllm_config)
        rules = engine_rules(vllm_config)
        self._requests = Requests(vllm_config, rules, engine_table(vllm_config, rules))
        self._rows: dict[int, _Request] = {}

    def is_argmax_invariant(self) -> bool:
        """Return False: the constraint changes which token is best."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests through the rows of the batch."""
        if batch_update is None:
            return
        rows = self._rows
        for row in batch_update.removed:
            rows.pop(row, None)
        for row, sampling_params, prompt, output in batch_update.added:
            rows.pop(row, None)
            settings = settings_of(sampling_params)
            if settings.constrained:
                rows[row] = _Request(settings, prompt, output)
        for first, second, direction in batch_update.moved:
            moved, other = rows.pop(first, None), rows.pop(second, None)
            if moved is not None:
                rows[second] = moved
            if other is not None and direction == MoveDirectionality.SWAP:
                rows[first] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Mask the rows of the constrained requests, in place."""
        rows = sorted(row for row in self._rows if row < len(logits))
        masks = masks_of((row, self._at(self._rows[row]).allowed()) for row in rows)
        mask_(logits, masks, rows, self._requests.rules.vocab_size)
        return logits

    def _at(self, request: _Request) -> Response:
        """Return the state after all tokens of a request's output that are known."""
        # Tokens are read here and not in `update_state`: with asynchronous scheduling the engine
        # fills in the last one just before the logits are processed.
        output = request.output
        known = len(output)
        while known and output[known - 1] == _UNKNOWN:
            known -= 1
        if request.response is None or known < request.consumed:
            request.response = self._requests.start(request.settings, request.prompt)
            request.consumed = 0
        request.response.advance(output[request.consumed : known])
        request.consumed = known
        return request.response
