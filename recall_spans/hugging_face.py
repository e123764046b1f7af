"""The span constraint as a logits processor of `transformers`.

processor = RecallSpans.from_folder(FOLDER, max_new_tokens=512, documents=[[document]])
model.generate(**inputs, max_new_tokens=512, logits_processor=[processor])
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor

from recall_spans.logits import masked
from recall_spans.machine import Response
from recall_spans.rules import RecallSpansError, Rules, read_json, rules_of
from recall_spans.serving import Responses, masks_of
from recall_spans.tokens import TokenTable, table_of_json


class RecallSpans(LogitsProcessor):
    """Constrains the recall spans of a batch in `generate`.

    It takes greedy decoding and sampling, batches, `num_return_sequences` and left padding. It can
    serve one `generate` call after another: a call with new prompts starts anew.
    """

    def __init__(
        self,
        rules: Rules,
        table: TokenTable,
        *,
        max_new_tokens: int | None,
        documents: Sequence[Sequence[str]] | None = None,
        prefix_length: int = 0,
        pad_token_id: int | None = None,
    ):
        """Make a processor.

        Args:
          rules: the rules of the model's config.json.
          table: the tokens of its tokenizer.
          max_new_tokens: the same as for `generate`: a span that is open when one token is left is
            ended. None leaves a span open that `generate` cuts off.
          documents: for each prompt the texts that its spans may copy, in their order in the
            prompt. Without documents they may copy all of it but chat and other added tokens.
          prefix_length: the number of each prompt's last tokens that belong to the response, such
            as a start token that makes it begin with a span.
          pad_token_id: the token that pads prompts on the left. Only rules that are
            `paper_compatible` need it; with others padding can't be copied, being an added token.

        Raises:
          RecallSpansError: an option can't be that of any prompts.
        """
        if max_new_tokens is not None and max_new_tokens < 1:
            raise RecallSpansError(f"max_new_tokens = {max_new_tokens} must be at least 1")
        # The letters of a text would be taken for texts.
        if isinstance(documents, str) or any(isinstance(texts, str) for texts in documents or ()):
            raise RecallSpansError(
                "documents must hold a list of texts for each prompt, such as [[document]] for one "
                "prompt with one document"
            )
        self._responses = Responses(rules, table, kept=256)
        self._documents, self._prefix_length = documents, prefix_length
        self._max_new_tokens, self._pad_token_id = max_new_tokens, pad_token_id
        self.reset()

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        *,
        max_new_tokens: int | None,
        documents: Sequence[Sequence[str]] | None = None,
        prefix_length: int = 0,
        pad_token_id: int | None = None,
    ) -> "RecallSpans":
        """Make a processor for a folder that `python -m recallm_jax.convert` wrote.

        Raises:
          RecallSpansError: the folder lacks a file, its config.json has no rules, or an option
            can't be that of any prompts.
        """
        folder = pathlib.Path(folder)
        rules = rules_of(read_json(folder, "config.json"), str(folder / "config.json"))
        table = table_of_json(read_json(folder, "tokenizer.json"), rules.vocab_size)
        return cls(
            rules,
            table,
            max_new_tokens=max_new_tokens,
            documents=documents,
            prefix_length=prefix_length,
            pad_token_id=pad_token_id,
        )

    def reset(self) -> None:
        """Forget the responses; the next call starts with new prompts."""
        self._rows: list[Response] = []
        # The ids of the last call, and the number of them that were the prompts.
        self._seen = torch.zeros((0, 0), dtype=torch.long)
        self._prompt_length = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return the scores, with -inf for tokens that break a span.

        Raises:
          RecallSpansError: rows were reordered (beam search) or cut back (assisted generation),
            responses are longer than `max_new_tokens`, or a prompt doesn't hold its documents.
        """
        if self._continues(input_ids):
            for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
                row.advance([token])
        else:
            self._start(input_ids)
        self._seen = input_ids
        masks = masks_of((number, row.allowed()) for number, row in enumerate(self._rows))
        # `generate` may return the logits as they came, so they are not changed in place.
        return masked(scores, masks, self._responses.rules.vocab_size)

    def _continues(self, input_ids: torch.Tensor) -> bool:
        """Return whether these rows are those of the last call, each with one more token."""
        count, length = input_ids.shape
        if len(self._rows) != count or length <= self._prompt_length:
            return False
        emitted = length - self._prompt_length
        spent = self._max_new_tokens is not None and emitted >= self._max_new_tokens
        one_more = length == self._seen.shape[1] + 1
        if one_more and torch.equal(input_ids[:, :-1], self._seen):
            if not spent:
                return True
            raise RecallSpansError(
                f"the rows go on after max_new_tokens = {self._max_new_tokens} of this processor; "
                "give generate the same max_new_tokens, or for prompts that continue former ones "
                "call reset() first"
            )
        prompts = slice(None, self._prompt_length)
        if torch.equal(input_ids[:, prompts], self._seen[:, prompts]):
            raise RecallSpansError(
                "the rows begin with the prompts of the last call but don't go on from it by one "
                "token: beam search and assisted generation are not supported (num_beams=1); for "
                "prompts that continue former ones call reset() first"
            )
        return False

    def _start(self, input_ids: torch.Tensor) -> None:
        self.reset()
        rows = input_ids.cpu().numpy()
        if not 0 <= self._prefix_length <= rows.shape[1]:
            raise RecallSpansError(
                f"prefix_length = {self._prefix_length} must lie between 0 and the "
                f"{rows.shape[1]} tokens of the prompt"
            )
        if self._responses.rules.paper_compatible and self._pad_token_id is None and len(rows) > 1:
            raise RecallSpansError(
                "the rules are paper_compatible, so padding could be copied: give pad_token_id"
            )
        documents = self._documents
        if documents is not None and (not documents or len(rows) % len(documents)):
            raise RecallSpansError(
                f"documents has entries for {len(documents)} prompts, but there are {len(rows)} "
                "rows; give one list of texts for each prompt"
            )
        each = 1 if documents is None else len(rows) // len(documents)
        self._rows = [
            self._responses.start(
                row,
                documents=None if documents is None else documents[number // each],
                prefix_length=self._prefix_length,
                budget=self._max_new_tokens,
                padding=self._padding(row),
            )
            for number, row in enumerate(rows)
        ]
        self._prompt_length = rows.shape[1]

    def _padding(self, row: np.ndarray) -> int:
        """Return the number of leading pad tokens."""
        if self._pad_token_id is None:
            return 0
        real = np.flatnonzero(row != self._pad_token_id)
        return int(real[0]) if real.size else len(row)
