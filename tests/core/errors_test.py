"""Messages name what, where and how to fix it."""

from __future__ import annotations

import pathlib

from attn_jax.core.errors import InputError, SessionError
from tests import testing


def test_message_has_all_parts():
    error = SessionError("frame 12 is missing", where=pathlib.Path("a/b"), fix="Record it again")
    assert str(error) == "a/b: frame 12 is missing. Record it again"
    assert (error.what, error.where, error.fix) == ("frame 12 is missing", "a/b", "Record it again")
    assert isinstance(error, InputError)
    assert isinstance(error, ValueError)


def test_parts_are_optional():
    assert str(InputError("bad")) == "bad"


if __name__ == "__main__":
    testing.main()
