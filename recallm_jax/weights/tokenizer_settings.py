"""The keys of tokenizer_config.json and tokenizer.json: used, without effect here, or refused.

A key that changes how texts become tokens, and that nobody reads, would give prompts that the model
was not trained on. So each key is in one of the sets below, and any other is refused by name.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.settings import json_object

CONFIG, TOKENIZER = "tokenizer_config.json", "tokenizer.json"
_USED = frozenset(
    {
        *("chat_template", "added_tokens_decoder"),
        *("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"),
    }
)
# Keys without an effect here, by the reason.
_HARMLESS = {
    "how tokens become text, which is done from the bytes of each token": (
        *("clean_up_tokenization_spaces", "spaces_between_special_tokens", "errors"),
        *("decode_with_prefix_space", "response_schema", "response_template"),
    ),
    "what encodings of several texts get on top, which are not asked for": (
        *("model_input_names", "return_token_type_ids", "pad_token_type_id"),
        *("padding", "padding_side", "pad_to_multiple_of"),
        *("truncation", "truncation_side", "truncation_strategy", "stride", "max_length"),
        "model_max_length",
    ),
    "tokens around a text without a chat template; the template writes its own": (
        *("add_bos_token", "add_eos_token", "use_default_system_prompt", "chat_control_tokens"),
    ),
    "ids, which the names of the tokens give": (
        *("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"),
    ),
    "the number of tokens, which tokenizer.json gives": ("vocab_size",),
    "SentencePiece, which a byte-level tokenizer is not": ("legacy", "sp_model_kwargs"),
    "where the files come from, and what reads them elsewhere": (
        *("tokenizer_class", "processor_class", "name_or_path", "backend", "tokenizer_type"),
        *("tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file"),
        *("is_local", "local_files_only", "transformers_version", "use_fast", "from_slow"),
        *("trust_remote_code", "use_auth_token", "model_type", "full_tokenizer_file"),
        *("init_inputs", "device_map", "_commit_hash", "_from_auto"),
    ),
}
_KNOWN = _USED.union(*_HARMLESS.values())
# Keys that change tokens if they are set, by what they do then.
_CHANGING = {
    "add_prefix_space": "writes a space before each text",
    "auto_map": "names code of its own that makes the tokens",
    "do_lower_case": "writes all texts in small letters",
    "fix_mistral_regex": "splits texts by another expression",
    "keep_accents": "decides about accents",
    "remove_space": "takes white space away",
    "split_special_tokens": "reads special tokens as text",
    "strip_accents": "takes accents away",
}
_TOKENIZER_KEYS = frozenset(
    # `truncation` and `padding` are switched off, as transformers does. `post_processor` adds
    # tokens around a text, which are not asked for.
    {
        *("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer"),
        *("post_processor", "decoder", "model"),
    }
)
# The tokens that `Tokenizer` itself looks for.
_ENDS = ("eos_token", "bos_token")
# What an added token takes besides its own text.
_FLAGS = ("lstrip", "rstrip", "single_word")
_SAVE_AGAIN = (
    "load the folder with transformers' AutoTokenizer and save it again, which writes the two "
    "files alike"
)


def read_special_tokens(
    settings: Mapping[str, Any], tokenizer_json: str, folder: str
) -> dict[str, str]:
    """Check the keys of both files, and return the special tokens besides eos and bos.

    Args:
      settings: the content of tokenizer_config.json.
      tokenizer_json: the text of tokenizer.json.
      folder: for error messages.

    Returns:
      Tokens by name, such as {"pad_token": "<|pad|>"}, as a chat template sees them.

    Raises:
      UserError: tokenizer.json is not a JSON object, or a key is unknown, changes how texts become
        tokens, or disagrees with the other file.
    """
    tokenizer = json_object(tokenizer_json.encode(), f"{folder}/{TOKENIZER}")
    for key in tokenizer.keys() - _TOKENIZER_KEYS:
        raise _unknown(f"{folder}/{TOKENIZER}", key, tokenizer[key])
    named = {}
    for key, value in settings.items():
        if key in _CHANGING:
            if value:
                raise UserError(
                    f"{folder}/{CONFIG}: {key} = {value!r} {_CHANGING[key]}, but tokens are those "
                    f"of {TOKENIZER} alone; set it to false if the model was trained without, or "
                    "use another model"
                )
        elif key.endswith("_token") and not isinstance(value, bool) and key not in _KNOWN:
            named[key] = _text(value, key, folder)
        elif key not in _KNOWN:
            raise _unknown(f"{folder}/{CONFIG}", key, value)
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        extra = settings.get(key)
        if isinstance(extra, dict):
            named |= {name: _text(value, name, folder) for name, value in extra.items()}
    others = {key: token for key, token in named.items() if token and key not in _ENDS}
    _check_tokens(settings, tokenizer, others, folder)
    return others


def read_template(settings: Mapping[str, Any], folder: str) -> str:
    """Return the chat template of tokenizer_config.json, the default one of several; "" for none.

    Raises:
      UserError: it is neither a text nor a list of named texts.
    """
    value = settings.get("chat_template")
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}.get("default")
    if value is not None and not isinstance(value, str):
        raise UserError(
            f"{folder}/{CONFIG}: chat_template is neither a text nor a list of objects with name "
            "and template; write one of these"
        )
    return value or ""


def _unknown(path: str, key: str, value: Any) -> UserError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return UserError(
        f"{path} has the key {key!r} = {shown}, which is not known to leave tokens and prompts as "
        "they are; delete it from the file if it does"
    )


def _text(value: Any, key: str, folder: str) -> str:
    """Return the text of a token that is given as a text or an object; "" if there is none."""
    token = value.get("content") if isinstance(value, dict) else value
    if token is not None and not isinstance(token, str):
        raise UserError(f"{folder}/{CONFIG}: {key} = {value!r} is not a token; give its text")
    return token or ""


def _check_tokens(
    settings: Mapping[str, Any], tokenizer: dict, named: Mapping[str, str], folder: str
) -> None:
    """Refuse tokens that transformers would add to tokenizer.json, or read in another way."""
    try:
        vocabulary = tokenizer["model"]["vocab"]
        added = {token["content"]: token for token in tokenizer.get("added_tokens") or ()}
        ids = dict(vocabulary) if isinstance(vocabulary, dict) else {}
        ids |= {content: token["id"] for content, token in added.items()}
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder}/{TOKENIZER} can't be read (its vocabulary or added_tokens: {error!r}); "
            "fetch it again"
        ) from None
    for key, content in (*named.items(), *_listed(settings, folder)):
        if content not in ids:
            raise UserError(
                f"{folder}/{CONFIG}: {key} names the token {content!r}, which {TOKENIZER} lacks; "
                f"{_SAVE_AGAIN}"
            )
    decoder = settings.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict) or not all(isinstance(t, dict) for t in decoder.values()):
        raise UserError(
            f"{folder}/{CONFIG}: added_tokens_decoder is not an object with an object for each id; "
            f"{_SAVE_AGAIN}"
        )
    for number, token in decoder.items():
        content = _text(token, "added_tokens_decoder", folder)
        if str(ids.get(content)) != number:
            raise UserError(
                f"{folder}/{CONFIG}: added_tokens_decoder gives {content!r} the id {number}, "
                f"{TOKENIZER} {ids.get(content, 'none')}; {_SAVE_AGAIN}"
            )
        entry = added.get(content, {})
        for flag in _FLAGS:
            if bool(token.get(flag)) != bool(entry.get(flag)):
                raise UserError(
                    f"{folder}/{CONFIG}: added_tokens_decoder gives {content!r} {flag} = "
                    f"{bool(token.get(flag))}, {TOKENIZER} {bool(entry.get(flag))}; {_SAVE_AGAIN}"
                )


def _listed(settings: Mapping[str, Any], folder: str) -> Iterator[tuple[str, str]]:
    """Yield the special tokens that are listed without a name, each with the key of its list."""
    for key in ("additional_special_tokens", "extra_special_tokens"):
        values = settings.get(key) or []
        if isinstance(values, list):
            yield from ((key, _text(value, key, folder)) for value in values)
