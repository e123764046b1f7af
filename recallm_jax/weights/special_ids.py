"""The ids of special tokens that config.json and generation_config.json state."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from recallm_jax.runtime.errors import UserError
from tasks.prompts.vocabulary import Tokenizer

BOS, EOS, PAD = "bos_token_id", "eos_token_id", "pad_token_id"


@dataclasses.dataclass(frozen=True)
class StatedIds:
    """What a checkpoint states about special tokens, kept so that an export states the same.

    Attributes:
      config: `bos_token_id`, `eos_token_id` and `pad_token_id` of config.json.
      generation: the fields of generation_config.json; None without this file.
    """

    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    generation: Mapping[str, Any] | None = None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end a response, as transformers chooses them; () if none is stated.

        generation_config.json decides, or config.json if it states none.
        """
        return _ids((self.generation or {}).get(EOS)) or _ids(self.config.get(EOS))

    @property
    def pad_id(self) -> int | None:
        """The id that pads batches, chosen in the same order; None if none is stated."""
        stated = (self.generation or {}).get(PAD)
        return self.config.get(PAD) if stated is None else stated


def read_stated(
    config: Mapping[str, Any], generation: Mapping[str, Any] | None, folder: str
) -> StatedIds:
    """Return the stated ids of a folder, given the fields of its two files.

    Raises:
      UserError: an id is not a whole number.
    """
    for name, fields in (("config.json", config), ("generation_config.json", generation or {})):
        for number in _listed(fields.get(EOS)):
            if type(number) is not int or number < 0:
                raise UserError(
                    f"{folder}/{name}: {EOS} = {fields[EOS]!r} is neither the id of a token nor a "
                    "list of ids; correct it"
                )
        for key in (BOS, PAD):
            # -1 stands for none in old files.
            if fields.get(key) is not None and type(fields[key]) is not int:
                raise UserError(
                    f"{folder}/{name}: {key} = {fields[key]!r} is not the id of a token; correct it"
                )
    ids = {name: config[name] for name in (BOS, EOS, PAD) if config.get(name) is not None}
    return StatedIds(ids, generation)


def exported_ids(
    stated: StatedIds, tokenizer: Tokenizer, *, pad_token: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the special tokens' fields of config.json, and the fields of generation_config.json.

    Both name all end tokens of the tokenizer. The rest is as the checkpoint stated it; what it did
    not state comes from the names of the tokenizer's tokens. Ids that the tokenizer lacks are left
    out, because the export has no rows for them.
    """
    named = {BOS: tokenizer.bos_token, PAD: pad_token}
    ids = {name: tokenizer.id_of(token) for name, token in named.items() if token}
    ids |= {name: stated.config[name] for name in (BOS, EOS, PAD) if name in stated.config}
    config = _with_ends(ids, tokenizer)
    generation = config if stated.generation is None else _with_ends(stated.generation, tokenizer)
    return config, generation


def _with_ends(fields: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return fields that name all end tokens; a list that names them keeps its order."""
    kept = {
        name: value
        for name, value in fields.items()
        if name not in (BOS, PAD) or value is None or value < tokenizer.size
    }
    ends = tokenizer.end_ids
    if set(_ids(fields.get(EOS))) != set(ends):
        kept[EOS] = ends[0] if len(ends) == 1 else list(ends)
    return kept


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(_listed(value))


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list) else [value]
