"""Reading values of a model's settings with their types: config.json, or the fields of a GGUF."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from recallm_jax.runtime.errors import UserError


def json_object(content: bytes, origin: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
      UserError: the content is not JSON, or not an object.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{origin} is not JSON ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{origin} is not a JSON object; take the file that belongs to the weights")
    return found


@dataclasses.dataclass(frozen=True)
class Settings:
    """Named values; null counts as absent.

    Attributes:
      origin: the file to name in errors.
      defaults: the values of absent names, as the format's reference implementation has them.
    """

    values: Mapping[str, Any]
    origin: str
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def get(self, name: str) -> Any:
        """Return a value, its default, or None."""
        value = self.values.get(name)
        return self.defaults.get(name) if value is None else value

    def integer(self, name: str) -> int:
        """Return a positive whole number.

        Raises:
          UserError: it is absent or something else.
        """
        value = self._required(name)
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or value < 1:
            raise UserError(f"{self.origin}: {name} = {value!r} is not a positive whole number")
        return int(value)

    def number(self, name: str) -> float:
        """Return a finite number above 0.

        Raises:
          UserError: it is absent or something else.
        """
        value = self._required(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{self.origin}: {name} = {value!r} is not a number")
        if not 0 < value < math.inf:
            raise UserError(f"{self.origin}: {name} = {value!r} is not a finite number above 0")
        return float(value)

    def text(self, name: str) -> str:
        """Return a text.

        Raises:
          UserError: it is absent or something else.
        """
        value = self._required(name)
        if not isinstance(value, str):
            raise UserError(f"{self.origin}: {name} = {value!r} is not a text")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false.

        Raises:
          UserError: it is absent or something else.
        """
        value = self._required(name)
        if not isinstance(value, bool):
            raise UserError(f"{self.origin}: {name} = {value!r} is not true or false")
        return value

    def _required(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise UserError(
                f"{self.origin} has no field {name!r}, which has no default; take the file that "
                "belongs to the weights"
            )
        return value
