"""The masks of spans on a PyTorch tensor of logits."""

import numpy as np
import torch

from recall_spans.serving import Masks

# Logits of allowed tokens are clipped to this range, so that one of them can always be sampled,
# whatever the model or another processor made of them.
LOGIT_BOUND = 1e30


def mask_(logits: torch.Tensor, masks: Masks, constrained: list[int], vocab_size: int) -> None:
    """Set the logits of forbidden tokens to -inf, in place.

    Args:
      logits: [rows, V].
      constrained: the rows that the masks are for; others stay as they are.
      vocab_size: the tokenizer's size; larger ids are always forbidden in constrained rows.
    """
    logits[_to(logits, constrained), vocab_size:] = -torch.inf
    _set(logits, masks.never, -torch.inf)
    kept = _finite(logits, masks)
    logits.index_fill_(0, _to(logits, masks.inside), -torch.inf)
    _set(logits, masks.allowed, kept)


def masked(logits: torch.Tensor, masks: Masks, vocab_size: int) -> torch.Tensor:
    """Return the logits with -inf for forbidden tokens; the masks are for all of the rows."""
    # The rows inside a span, which may be all of them, are not copied.
    out = torch.full_like(logits, -torch.inf)
    outside = np.setdiff1d(np.arange(len(logits)), masks.inside)
    if len(outside):
        rows = _to(logits, outside)
        out[rows, :vocab_size] = logits[rows, :vocab_size]
    _set(out, masks.never, -torch.inf)
    _set(out, masks.allowed, _finite(logits, masks))
    return out


def _finite(logits: torch.Tensor, masks: Masks) -> torch.Tensor:
    """Return the logits of the tokens that rows inside a span may go on with, made finite."""
    bound = min(LOGIT_BOUND, torch.finfo(logits.dtype).max)
    rows, tokens = masks.allowed
    found = logits[_to(logits, rows), _to(logits, tokens)]
    return torch.nan_to_num(found, nan=0.0).clamp(-bound, bound)


def _set(
    logits: torch.Tensor, pairs: tuple[np.ndarray, np.ndarray], value: torch.Tensor | float
) -> None:
    rows, tokens = pairs
    if len(rows):
        logits[_to(logits, rows), _to(logits, tokens)] = value


def _to(logits: torch.Tensor, numbers: np.ndarray | list[int]) -> torch.Tensor:
    return torch.as_tensor(numbers, dtype=torch.long, device=logits.device)
