"""Tests of attn_jax.probe.select_fields."""

import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.probe.select_fields import checked_numbers, parse_field
from tests import testing


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("layers", "2, 3", (2, 3)),
        ("layers", "last:2", "last:2"),
        ("queries", "action, text/*", ("action", "text/*")),
        ("every_n", "4", 4),
        ("valid_keys_only", "", True),
        ("dtype", "u8row", "u8row"),
    ],
)
def test_fields_mean_what_they_say(name, text, value):
    assert parse_field(name, text) == value


@pytest.mark.parametrize(("name", "text"), [("every_n", "-1"), ("valid_keys_only", "perhaps")])
def test_fields_that_mean_nothing(name, text):
    with pytest.raises(ConfigError, match=name):
        parse_field(name, text)


def test_numbers():
    assert checked_numbers("heads", (3, 1)) == (3, 1) and checked_numbers("heads", "all") == "all"
    for value in ("last:2", (1, 1), (-1,), ()):
        with pytest.raises(ConfigError, match="all or numbers"):
            checked_numbers("heads", value)


if __name__ == "__main__":
    testing.main()
