"""tokenizer.json: reading it, adding tokens, and naming the parts that change a text."""

import json
from collections.abc import Sequence

import tokenizers

from tasks.errors import TaskInputError

_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_KEEPS = "use a model whose tokenizer keeps texts as they are"


def read_tokenizer(tokenizer_json: str) -> tokenizers.Tokenizer:
    """Return the tokenizer of a tokenizer.json, without the truncation and padding it may hold.

    Raises:
      TaskInputError: the text is not a tokenizer.json, or gives an added token an id that the
        vocabulary has no room for.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # The library raises bare Exceptions.
        raise TaskInputError(
            f"tokenizer.json can't be read ({str(error).splitlines()[0]}); "
            "take it from the folder that the weights came from"
        ) from None
    for token in json.loads(tokenizer_json).get("added_tokens") or ():
        found = tokenizer.token_to_id(token["content"])
        if found != token["id"]:
            raise TaskInputError(
                f"tokenizer.json gives its added token {token['content']!r} the id "
                f"{token['id']}, but tokenizers reads it as {found}, the id after its vocabulary; "
                "enter the token in the file's model.vocab too, with its id"
            )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def with_tokens(tokenizer: tokenizers.Tokenizer, tokens: Sequence[str]) -> tokenizers.Tokenizer:
    """Return the tokenizer with the tokens that it lacks, at the ids after its last one."""
    missing = [token for token in tokens if tokenizer.token_to_id(token) is None]
    first = max(tokenizer.get_vocab().values()) + 1
    added = [tokenizers.AddedToken(t, special=False, normalized=False) for t in missing]
    if first != tokenizer.get_vocab_size():
        # The library would give the number of entries as an id, which is in use if ids below the
        # last one are not. A token of the vocabulary keeps its id when it is added.
        content = json.loads(tokenizer.to_str())
        content["model"]["vocab"].update({t: first + n for n, t in enumerate(missing)})
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    tokenizer.add_tokens(added)
    return tokenizer


def without_added_tokens(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return a tokenizer that reads every text as text, whatever tokens it spells."""
    content = json.loads(tokenizer.to_str())
    content["added_tokens"], content["post_processor"] = [], None
    return tokenizers.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))


def changes(tokenizer: tokenizers.Tokenizer, text: str) -> str:
    """Return in words which part of a tokenizer changes a text, and what to do about it."""
    changed = []
    for normalizer in _parts(tokenizer.normalizer):
        normalised = normalizer.normalize_str(text)
        changed += [type(normalizer).__name__] if normalised != text else []
        text = normalised
    if changed and set(changed) <= set(_FORMS):
        return f"Unicode normalisation {changed[-1]}: give the text in this form"
    if changed:
        return f"its normalizer {', '.join(changed)}: {_KEEPS}"
    for token in tokenizer.get_added_tokens_decoder().values():
        if (token.lstrip or token.rstrip) and str(token) in text:
            return f"its added token {token}, which takes the white space beside it: {_KEEPS}"
    names = [type(part).__name__ for part in _parts(tokenizer.pre_tokenizer)]
    return f"its pre_tokenizer {', '.join(names) or 'is missing'}: {_KEEPS}"


def _parts(step) -> list:
    """Return the parts of a normalizer or a pre_tokenizer in their order."""
    if step is None:
        return []
    return list(step) if hasattr(step, "__getitem__") else [step]
