"""How responses are decoded: the rules of recall spans, and the modes of an evaluation."""

import dataclasses

from ml_collections import ConfigDict

from decoding.sampling import Sampling
from decoding.span_copy import SpanRules
from recallm_jax.config.fields import FIELDS
from recallm_jax.runtime.errors import UserError
from tasks.prompts.span_edges import token_edges
from tasks.prompts.vocabulary import Tokenizer

MODES = FIELDS["evaluation.modes"].choices


@dataclasses.dataclass(frozen=True)
class Mode:
    """How responses are decoded, with `group_size` responses to each prompt."""

    name: str
    sampling: Sampling
    rules: SpanRules
    group_size: int


def decoding_mode(name: str, config: ConfigDict, tokenizer: Tokenizer) -> Mode:
    """Return the mode of an evaluation with a name such as "constrained-greedy"."""
    sampling, constrained, group_size = sampling_of(name, config)
    return Mode(name, sampling, span_rules(config, tokenizer, constrained=constrained), group_size)


def sampling_of(mode: str, config: ConfigDict) -> tuple[Sampling, bool, int]:
    """Return a mode's sampling, whether spans are constrained, and its responses per prompt.

    Raises:
      UserError: the mode is unknown.
    """
    if mode not in MODES:
        raise UserError(f"evaluation mode {mode!r} is unknown; use any of {', '.join(MODES)}")
    constraint, _, choice = mode.partition("-")
    if choice == "greedy":
        return Sampling(temperature=0.0), constraint == "constrained", 1
    sampling = Sampling(temperature=config.evaluation.temperature, top_p=config.evaluation.top_p)
    return sampling, constraint == "constrained", config.evaluation.samples


def span_rules(config: ConfigDict, tokenizer: Tokenizer, *, constrained: bool = True) -> SpanRules:
    """Return the rules of recall spans that a config asks for."""
    return SpanRules(
        start_token=tokenizer.start_recall_id,
        end_token=tokenizer.end_recall_id,
        vocab_size=tokenizer.size,
        barriers=tuple(sorted(tokenizer.special_ids)),
        min_length=config.decoding.min_recall_length,
        max_length=config.decoding.max_recall_length,
        constrained=constrained,
        copy_source=config.decoding.copy_source,
        paper_compatible=config.decoding.paper_compatible,
        edges=_edges(tokenizer, config),
    )


def _edges(tokenizer: Tokenizer, config: ConfigDict) -> bytes:
    if config.decoding.copy_source == "prompt":
        return b""
    return token_edges(tokenizer, config.decoding.span_alignment)
