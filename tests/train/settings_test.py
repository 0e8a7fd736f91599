"""Bad intervals are refused; the data protocol is what the toy follows."""

import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.train.settings import Data, LoopConfig
from tests import testing
from tests.train import toy


@pytest.mark.parametrize(
    "fields",
    [
        {"eval_every": -1},
        {"save_every": -1},
        {"log_every": 0},
        {"max_skips": 0},
        {"max_restores": -1},
        {"best_mode": "low"},
    ],
)
def test_bad_values_name_the_field(fields):
    with pytest.raises(ConfigError, match=next(iter(fields))):
        LoopConfig(**fields)


def test_protocol():
    assert isinstance(toy.ToyData(), Data)
    assert not isinstance(iter([]), Data)


if __name__ == "__main__":
    testing.main()
