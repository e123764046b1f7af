"""The value that an override's text means, for the type of its field.

A tuple is written `512,1024`, `(512, 1024)` or `('a', 'b')`; a bool `true`, `yes`, `on` or `1`, or
their opposites; a whole number also `1e6` or `1_000`. `None` empties a text that may be empty.
"""

from typing import Any

from recallm_jax.config.fields import Field, find_field
from recallm_jax.runtime.errors import UserError

_BOOLS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLS |= {"false": False, "no": False, "off": False, "0": False}


def typed_value(name: str, text: str) -> Any:
    """Return the value of the field `name` that a text means.

    Raises:
      UserError: there is no such field, or the text is of another type.
    """
    field = find_field(name)
    if not field.many:
        return _value(name, field, text, text)
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1]
    items = [item.strip() for item in inner.split(",")]
    # Python writes a tuple of one item with a comma.
    items = items[:-1] if not items[-1] else items
    return tuple(_value(name, field, item, text) for item in items)


def _value(name: str, field: Field, item: str, text: str) -> Any:
    if len(item) > 1 and item[0] == item[-1] and item[0] in "'\"":
        item = item[1:-1]
    if field.kind is str:
        return "" if item == "None" and field.blank else item
    try:
        if field.kind is bool:
            return _BOOLS[item.strip().lower()]
        if field.kind is float:
            return float(item)
        return _whole_number(item)
    except (KeyError, ValueError, OverflowError):
        form = "true or false" if field.kind is bool else field.kind.__name__
        several = ", or several with commas between them" if field.many else ""
        raise UserError(
            f"config.{name} = {text!r} has the wrong type; give {form}{several}"
        ) from None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if number != int(number):
            raise
        return int(number)
