"""Rotary settings of a config.json: both spellings are read, the older one is written.

`rope_theta` with `rope_scaling` is the spelling of transformers 4, `rope_parameters` that of
transformers 5. Defaults and precedence are those of transformers 5.24 (`modeling_rope_utils`).
"""

from typing import Any

from recallm_jax.models.presets import RopeScaling
from recallm_jax.runtime.console import warn
from recallm_jax.runtime.errors import UserError
from recallm_jax.weights.settings import Settings

DEFAULT_THETA = 10_000.0
_ORIGINAL = "original_max_position_embeddings"
# The options of each type; a type's fields of `RopeScaling` have the same names.
_OPTIONS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL),
    "yarn": (
        "factor",
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
        _ORIGINAL,
    ),
}
# llama3's are those of the Llama 3.1 release, which the type is named after.
_DEFAULTS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_UNSUPPORTED = {
    "dynamic": "it changes the frequencies with the length of the text",
    "longrope": "it gives short and long texts frequencies of their own",
    "proportional": "it rotates a part of each head only",
}
# The share of each head that is rotated.
_PARTIAL = "partial_rotary_factor"
# YaRN's option in vLLM and llama.cpp; transformers has `attention_factor` instead.
_ATTN_FACTOR = "attn_factor"


def read_rope(
    fields: dict[str, Any], origin: str, max_positions: int
) -> tuple[float, RopeScaling | None]:
    """Return the base of the rotary frequencies, and their scaling or None.

    Args:
      fields: those of config.json.
      max_positions: its `max_position_embeddings`, or the default of its family.

    Raises:
      UserError: a type or an option is not supported, missing, or not a number.
    """
    place = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    stated = fields.get(place) or {}
    if not isinstance(stated, dict):
        raise UserError(f"{origin}: {place} = {stated!r} is not an object of settings")
    settings = {name: value for name, value in stated.items() if value is not None}
    outer = Settings(fields, origin, {"rope_theta": DEFAULT_THETA})
    inner = Settings(
        settings, f"{origin}: {place}", _DEFAULTS | {_ORIGINAL: max_positions, "type": "default"}
    )
    theta = (inner if "rope_theta" in settings else outer).number("rope_theta")
    # "type" is the older spelling of "rope_type"; some configs carry both.
    kind = inner.text("rope_type" if "rope_type" in settings else "type")
    if kind not in _OPTIONS:
        why = f": {_UNSUPPORTED[kind]}" if kind in _UNSUPPORTED else ""
        raise UserError(
            f"{origin}: rope type {kind!r} is not supported{why}; use a model with one of "
            f"{', '.join(_OPTIONS)}"
        )
    _check_options(settings, kind, inner.origin)
    if kind == "default":
        return theta, None
    if "factor" not in stated:
        raise UserError(f"{inner.origin} has no 'factor', which rope type {kind!r} needs")
    # A length beside the rotary settings has priority, as in Phi 3's configs.
    original = outer if fields.get(_ORIGINAL) is not None else inner
    positions = original.integer(_ORIGINAL)
    if kind == "yarn":
        # A factor of null is the ratio of the lengths; a `truncate` of null is false.
        settings.setdefault("factor", max_positions / positions)
        settings["truncate"] = bool(stated.get("truncate", True))
    return theta, _scaling(kind, inner, positions)


def _check_options(settings: dict[str, Any], kind: str, origin: str) -> None:
    if settings.get(_PARTIAL, 1) != 1:
        raise UserError(
            f"{origin}: {_PARTIAL} = {settings[_PARTIAL]!r} is not supported: it rotates a part of "
            "each head only; use a model without it"
        )
    options = set(settings) - {"rope_type", "type", "rope_theta", _PARTIAL, *_OPTIONS[kind]}
    if kind == "yarn" and _ATTN_FACTOR in options:
        warn(
            f"{origin}: {_ATTN_FACTOR} = {settings[_ATTN_FACTOR]!r} is not used, as in "
            "transformers, which reads attention_factor"
        )
        options.discard(_ATTN_FACTOR)
    if options:
        values = ", ".join(f"{name} = {settings[name]!r}" for name in sorted(options))
        raise UserError(
            f"{origin}: {values} is not supported with rope type {kind!r}; transformers ignores "
            "it, so remove it if transformers computes the model right"
        )


def _scaling(kind: str, settings: Settings, positions: int) -> RopeScaling:
    def optional(name: str) -> float | None:
        # 0 counts as absent in transformers, except for the attention factor.
        return settings.number(name) if settings.get(name) else None

    if kind == "linear":
        return RopeScaling(kind, settings.number("factor"), positions)
    if kind == "llama3":
        low, high = settings.number("low_freq_factor"), settings.number("high_freq_factor")
        if low >= high:
            raise UserError(
                f"{settings.origin}: high_freq_factor = {high} is not above low_freq_factor = {low}"
            )
        return RopeScaling(kind, settings.number("factor"), positions, low, high)
    return RopeScaling(
        kind,
        settings.number("factor"),
        positions,
        beta_fast=optional("beta_fast") or 32.0,
        beta_slow=optional("beta_slow") or 1.0,
        attention_factor=(
            None
            if settings.get("attention_factor") is None
            else settings.number("attention_factor")
        ),
        mscale=optional("mscale"),
        mscale_all_dim=optional("mscale_all_dim"),
        truncate=settings.flag("truncate"),
    )


def write_rope(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """Return `rope_scaling` of config.json; options that have no value are left out."""
    if scaling is None:
        return None
    named = {name: getattr(scaling, name) for name in _OPTIONS[scaling.kind] if name != _ORIGINAL}
    if _ORIGINAL in _OPTIONS[scaling.kind]:
        named[_ORIGINAL] = scaling.original_max_positions
    return {"rope_type": scaling.kind} | {k: v for k, v in named.items() if v is not None}
