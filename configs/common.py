"""Arguments of configuration files: `--config=configs/canvas.py:size=64,tiny`.

def get_config(arg=None):
    arg = parse_arg(arg, size=224, tiny=False)
    ...
"""

from __future__ import annotations

import ml_collections

from attn_jax.core.errors import ConfigError


def parse_arg(arg: str | None, **spec: bool | int | float | str) -> ml_collections.ConfigDict:
    """Parses `name=value,flag` into typed values.

    Args:
      arg: the text after the colon of --config, or None.
      **spec: allowed names with their defaults; the type of the default is the type of the value. A
        boolean is set by its bare name.

    Raises:
      ConfigError: an unknown name or a value that does not convert.
    """
    values = dict(spec)
    for item in filter(None, (arg or "").split(",")):
        name, equals, text = item.partition("=")
        if name not in spec:
            raise ConfigError(
                f"unknown config argument {name!r}", fix=f"Known arguments: {', '.join(spec)}"
            )
        default = spec[name]
        if isinstance(default, bool):
            if text.lower() not in ("", "true", "false", "1", "0"):
                raise ConfigError(f"config argument {name} takes true or false, got {text!r}")
            values[name] = text.lower() not in ("false", "0")
            continue
        if not equals:
            raise ConfigError(f"config argument {name} needs a value, as in {name}={default}")
        try:
            values[name] = type(default)(text)
        except ValueError as error:
            raise ConfigError(
                f"config argument {name} is of type {type(default).__name__}, got {text!r}"
            ) from error
    return ml_collections.ConfigDict(values)
