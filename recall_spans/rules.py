"""The rules of recall spans, as an exported config.json holds them."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

# The key of config.json that holds the rules.
KEY = "recall_spans"
ALIGNMENTS = ("character", "word", "token")
COPY_SOURCES = ("prompt", "prompt+response")


class RecallSpansError(ValueError):
    """An input that the user can mend; the message says how."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """The definition of a recall span.

    Attributes:
      start_token_id, end_token_id: the two recall tokens.
      vocab_size: the tokenizer's size; larger ids are rows of the output matrix that no text uses.
      barrier_token_ids: ids that are never copied, such as those of chat tokens.
      min_length, max_length: bounds of the number of copied tokens.
      span_alignment: whether spans open and close at the edges of characters ("character"), of
        words ("word") or of tokens ("token").
      copy_source: "prompt", or "prompt+response" to copy from the response before the span too.
      paper_compatible: whether the rule of the paper's release holds instead: the whole prompt may
        be copied, spans may be empty, and the end token may stand anywhere.
    """

    start_token_id: int
    end_token_id: int
    vocab_size: int
    barrier_token_ids: tuple[int, ...]
    min_length: int
    max_length: int
    span_alignment: str
    copy_source: str
    paper_compatible: bool

    def __post_init__(self):
        for name, known in (("span_alignment", ALIGNMENTS), ("copy_source", COPY_SOURCES)):
            if getattr(self, name) not in known:
                raise RecallSpansError(
                    f"{KEY}.{name} = {getattr(self, name)!r} is not one of {', '.join(known)}"
                )
        if not 1 <= self.min_length <= self.max_length:
            raise RecallSpansError(
                f"{KEY}.min_length = {self.min_length} must lie between 1 and {KEY}.max_length = "
                f"{self.max_length}"
            )
        for name in ("start_token_id", "end_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise RecallSpansError(
                    f"{KEY}.{name} = {getattr(self, name)} is not an id below {KEY}.vocab_size = "
                    f"{self.vocab_size}"
                )

    @property
    def copies_response(self) -> bool:
        """Whether spans may copy from the response."""
        return self.copy_source == "prompt+response"

    @property
    def all_barriers(self) -> tuple[int, ...]:
        """The ids that a span can't hold."""
        others = () if self.paper_compatible else self.barrier_token_ids
        return tuple(sorted({*others, self.start_token_id, self.end_token_id}))


def rules_of(config: Mapping[str, Any], origin: str) -> Rules:
    """Return the rules that a model's config holds.

    Args:
      config: the content of config.json.
      origin: the name of the config, for messages.

    Raises:
      RecallSpansError: the config has no rules, or they have other fields than `Rules`.
    """
    stored = config.get(KEY)
    if not isinstance(stored, Mapping):
        raise RecallSpansError(
            f"{origin} has no {KEY!r}; export the model with python -m recallm_jax.convert"
        )
    names = {field.name for field in dataclasses.fields(Rules)}
    if stored.keys() != names:
        differing = sorted(names ^ stored.keys())
        raise RecallSpansError(
            f"{origin}: the fields of {KEY!r} differ from those of this version in "
            f"{', '.join(differing)}; export the model again, or install the recall_spans of the "
            "clone that exported it"
        )
    return Rules(**{**stored, "barrier_token_ids": tuple(stored["barrier_token_ids"])})


def read_json(folder: pathlib.Path, name: str) -> Any:
    """Return the content of a JSON file of a model's folder.

    Raises:
      RecallSpansError: the file is missing or not JSON.
    """
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecallSpansError(f"{folder / name} is missing; give an exported folder") from None
    except ValueError as error:
        raise RecallSpansError(f"{folder / name} is not JSON ({error})") from None
