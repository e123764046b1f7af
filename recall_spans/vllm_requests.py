"""What both vLLM processors know of requests: their settings, their budgets, their responses."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from recall_spans.machine import Response
from recall_spans.rules import KEY, RecallSpansError, Rules, rules_of
from recall_spans.serving import Responses
from recall_spans.tokens import TokenTable

DOCUMENTS, PREFIX_LENGTH = "recall_documents", "recall_prefix_length"
# Indices of prompts that are kept for further requests, 10 bytes a token each.
KEPT_INDICES = 64

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a request, from the `extra_args` of its sampling parameters.

    Attributes:
      constrained: `recall_spans`; false or 0 leaves the request's spans to the model.
      documents: `recall_documents`: the texts that may be copied; None for the whole prompt.
      prefix_length: `recall_prefix_length`: the number of the prompt's last tokens that belong to
        the response.
      max_tokens: the most tokens of the response; None without a limit.
    """

    constrained: bool
    documents: tuple[str, ...] | None
    prefix_length: int
    max_tokens: int | None


def settings_of(sampling_params: Any) -> Settings:
    """Return the settings of a request.

    Raises:
      RecallSpansError: a setting is of another type than documented.
    """
    given = sampling_params.extra_args or {}
    constrained = given.get(KEY, True)
    if constrained not in (True, False):
        raise RecallSpansError(f"{KEY} = {constrained!r} is not true or false")
    documents = given.get(DOCUMENTS)
    if documents is not None and not (
        isinstance(documents, list | tuple) and all(isinstance(one, str) for one in documents)
    ):
        raise RecallSpansError(
            f"{DOCUMENTS} is not a list of texts; give each document as the prompt has it"
        )
    prefix_length = given.get(PREFIX_LENGTH, 0)
    if not isinstance(prefix_length, int) or prefix_length < 0:
        raise RecallSpansError(f"{PREFIX_LENGTH} = {prefix_length!r} is not a number of tokens")
    return Settings(
        bool(constrained),
        None if documents is None else tuple(documents),
        prefix_length,
        sampling_params.max_tokens,
    )


def check_engine(vllm_config: Any) -> None:
    """Refuse an engine that drafts tokens.

    Raises:
      RecallSpansError: speculative decoding is on.
    """
    if vllm_config.speculative_config is not None:
        raise RecallSpansError(
            "recall spans don't work with speculative decoding; start vLLM without "
            "--speculative-config"
        )


def engine_rules(vllm_config: Any) -> Rules:
    """Return the rules in the config.json of the served model.

    Raises:
      RecallSpansError: it has none.
    """
    model = vllm_config.model_config
    return rules_of(model.hf_config.to_dict(), f"the config.json of {model.model}")


class Requests:
    """Starts the responses of an engine's requests."""

    def __init__(self, vllm_config: Any, rules: Rules, table: TokenTable):
        """Serve the model of an engine."""
        self.rules = rules
        self._responses = Responses(rules, table, kept=KEPT_INDICES)
        self._context: int = vllm_config.model_config.max_model_len

    def start(self, settings: Settings, prompt: Sequence[int] | np.ndarray | None) -> Response:
        """Return the state of the response to a prompt.

        An error here would end the engine with all of its requests. So a request whose prompt
        lacks a document gets a warning in the log, and spans that have nothing to copy.

        Args:
          prompt: its ids; None for a prompt of embeddings, from which nothing can be copied.
        """
        tokens = np.asarray([] if prompt is None else prompt, np.int32)
        budget = self._context - len(tokens)
        if settings.max_tokens is not None:
            budget = min(budget, settings.max_tokens)
        prefix_length = min(settings.prefix_length, len(tokens))
        try:
            return self._responses.start(
                tokens, documents=settings.documents, prefix_length=prefix_length, budget=budget
            )
        except RecallSpansError as error:
            logger.warning("no recall span may open in this response: %s", error)
            return self._responses.start(
                tokens, documents=(), prefix_length=prefix_length, budget=budget
            )


def engine_table(vllm_config: Any, rules: Rules) -> TokenTable:
    """Return the tokens of the served model's tokenizer."""
    from transformers import AutoTokenizer

    model = vllm_config.model_config
    tokenizer = AutoTokenizer.from_pretrained(model.tokenizer, revision=model.tokenizer_revision)
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    return TokenTable(tokenizer.get_vocab(), added, rules.vocab_size)
