"""Fields of a capture selection: from the text of a flag to values, and checks of numbers.

parse_field("layers", "2,3")              # (2, 3)
checked_numbers("layers", "last:2")       # "last:2"
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_jax.core.errors import ConfigError

type Numbers = str | tuple[int, ...]

_FLAG_VALUES = {"true": True, "1": True, "": True, "false": False, "0": False}


def checked_numbers(field: str, value: Numbers) -> Numbers:
    """Numbers of layers, heads or steps as a tuple, or the words that stand for some.

    Raises:
      ConfigError: neither, or numbers that repeat or are negative.
    """
    allowed = "all or numbers" if field != "layers" else "all, last:n or numbers"
    problem = ConfigError(f"selection field {field} cannot be {value!r}", fix=f"Use {allowed}")
    if isinstance(value, str):
        last = value.removeprefix("last:")
        if value == "all":
            return value
        if field == "layers" and last != value and last.isdecimal() and int(last) > 0:
            return value
        raise problem
    if not value or any(not isinstance(number, (int, np.integer)) for number in value):
        raise problem
    if len(set(value)) != len(value) or min(value) < 0:
        raise problem
    return tuple(int(number) for number in value)


def parse_field(name: str, text: str) -> Any:
    """The value that the text of a field of a selection means; raises `ConfigError`."""
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if name in ("layers", "heads", "denoise"):
        if parts and all(part.isdecimal() for part in parts):
            return tuple(int(part) for part in parts)
        return text
    if name == "every_n":
        if not text.isdecimal():
            raise ConfigError(f"selection field every_n takes a whole number, got {text!r}")
        return int(text)
    if name == "valid_keys_only":
        if text.lower() not in _FLAG_VALUES:
            raise ConfigError(f"selection field valid_keys_only takes true or false, got {text!r}")
        return _FLAG_VALUES[text.lower()]
    return text if name == "dtype" else parts
