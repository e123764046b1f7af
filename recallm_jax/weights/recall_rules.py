"""The rules of recall spans in an exported config.json, for the package `recall_spans`.

With them transformers and vLLM constrain spans as the model was trained (`docs/serving.md`).
"""

import json
from typing import Any

from decoding.span_copy import SpanRules
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.added_tokens import tokenizer_size
from storage.files import as_path, read_text
from tasks.prompts.span_edges import token_edges
from tasks.prompts.vocabulary import END_RECALL, START_RECALL, Tokenizer, read_tokenizer

# The key of config.json.
KEY = "recall_spans"

# The alignment of spans for weights that no run of ours has trained.
USUAL_ALIGNMENT = "character"


def recall_rules(rules: SpanRules, span_alignment: str) -> dict[str, Any]:
    """Return the rules as plain values, for `KEY` of config.json.

    Args:
      span_alignment: the edges at which the rules let spans open and close
        (`tasks.prompts.record.span_flags`).
    """
    return {
        "start_token_id": rules.start_token,
        "end_token_id": rules.end_token,
        "vocab_size": rules.vocab_size,
        "barrier_token_ids": sorted(rules.barriers),
        "min_length": rules.min_length,
        "max_length": rules.max_length,
        "span_alignment": span_alignment,
        "copy_source": rules.copy_source,
        "paper_compatible": rules.paper_compatible,
    }


def stored_rules(source: str, usual: dict[str, Any]) -> dict[str, Any] | None:
    """Return the rules in the config.json of weights that were exported before; None without any.

    Args:
      source: a folder, local or on gs://, or a file, from which the weights have been read.
      usual: the usual rules for its tokenizer (`usual_rules`).

    Raises:
      UserError: the rules have other fields, or are for another tokenizer.
    """
    path = as_path(source) / "config.json"
    stored = json.loads(read_text(path)).get(KEY) if path.is_file() else None
    if stored is None:
        return None
    remedy = f"remove {KEY!r} from the file to get the usual rules, or export the run again"
    if not isinstance(stored, dict) or stored.keys() != usual.keys():
        raise UserError(f"{path}: {KEY} does not have the fields {', '.join(usual)}; {remedy}")
    for name in ("start_token_id", "end_token_id", "vocab_size"):
        if stored[name] != usual[name]:
            raise UserError(
                f"{path}: {KEY}.{name} = {stored[name]!r}, but the tokenizer has {usual[name]}; "
                f"{remedy}"
            )
    return stored


def usual_rules(tokenizer_json: str) -> dict[str, Any]:
    """Return the rules for weights that no run of ours has trained.

    Args:
      tokenizer_json: the text of a tokenizer.json that has the recall tokens.
    """
    tokenizer = read_tokenizer(tokenizer_json)
    ids = tokenizer.get_vocab()
    rules = SpanRules(
        start_token=ids[START_RECALL],
        end_token=ids[END_RECALL],
        vocab_size=tokenizer_size(tokenizer),
        barriers=tuple(tokenizer.get_added_tokens_decoder()),
    )
    return recall_rules(rules, USUAL_ALIGNMENT)


def rules_of(source: str, tokenizer: Tokenizer) -> tuple[SpanRules, str]:
    """Return the rules of weights and their alignment: those stored with them, or the usual ones.

    Raises:
      UserError: see `stored_rules`.
    """
    usual = usual_rules(tokenizer.to_json())
    stored = stored_rules(source, usual) or usual
    alignment = stored["span_alignment"]
    copies_response = stored["copy_source"] != "prompt"
    rules = SpanRules(
        start_token=stored["start_token_id"],
        end_token=stored["end_token_id"],
        vocab_size=stored["vocab_size"],
        barriers=tuple(stored["barrier_token_ids"]),
        min_length=stored["min_length"],
        max_length=stored["max_length"],
        copy_source=stored["copy_source"],
        paper_compatible=stored["paper_compatible"],
        edges=token_edges(tokenizer, alignment) if copies_response else b"",
    )
    return rules, alignment
