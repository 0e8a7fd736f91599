"""Typed arguments of configuration files."""

from __future__ import annotations

import pytest

from attn_jax.core.errors import ConfigError
from configs.common import parse_arg
from tests import testing


def test_values_have_the_type_of_their_default():
    parsed = parse_arg("size=64,tiny,rate=0.5,name=x", size=1, tiny=False, rate=1.0, name="")
    assert parsed.to_dict() == {"size": 64, "tiny": True, "rate": 0.5, "name": "x"}
    assert parse_arg(None, tiny=True).tiny is True
    assert parse_arg("tiny=false", tiny=True).tiny is False


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("sice=3", "unknown config argument 'sice'.*size"),
        ("size", "needs a value"),
        ("size=big", "is of type int, got 'big'"),
        ("tiny=maybe", "takes true or false"),
    ],
)
def test_mistakes_are_named(arg, message):
    with pytest.raises(ConfigError, match=message):
        parse_arg(arg, size=1, tiny=False)


if __name__ == "__main__":
    testing.main()
