"""Tests of launch.variant_flags: what the flags of variants ask for."""

import pytest
from absl.testing import flagsaver

from attn_jax.core.errors import ConfigError
from launch import variant_flags
from launch.episode_variants import Occlusion
from launch.variant_flags import occlusion_from_flags, rotate_from_flags
from tests import testing


@pytest.fixture
def parse():
    def parsed(*words):
        variant_flags.flags.FLAGS(["evaluate", *words])

    with flagsaver.flagsaver():
        yield parsed


def test_nothing_is_hidden_or_turned_unless_asked(parse):
    parse("--occlude_fills=blur")
    assert occlusion_from_flags(("base",), 18) is None and rotate_from_flags() == ()


def test_what_is_hidden(parse):
    parse("--occlude=3,last")
    assert occlusion_from_flags(("base", "wrist"), 18) == Occlusion(
        (3, 17), ("base", "wrist"), ("black", "mean"), 0.1, 1
    )
    parse("--occlude=last", "--occlude_fills=key_removal", "--occlude_cameras=wrist")
    parse("--occlude_share=0.25", "--occlude_seeds=2", "--rotate=90,270")
    assert occlusion_from_flags(("base", "wrist"), 2) == Occlusion(
        (1,), ("wrist",), ("key_removal",), 0.25, 2
    )
    assert rotate_from_flags() == (90, 270)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--occlude=first", "first are no layers"),
        ("--occlude_fills=grey", "unknown fill 'grey'"),
        ("--occlude_fills=", "are empty"),
        ("--occlude_share=0.6", "outside"),
        ("--rotate=left", "left are no degrees"),
    ],
)
def test_what_cannot_be(parse, word, said):
    parse("--occlude=last", word)
    with pytest.raises(ConfigError, match=said):
        occlusion_from_flags(("base",), 18)
        rotate_from_flags()


if __name__ == "__main__":
    testing.main()
