"""Tests of attn_jax.analysis.options."""

import pytest

from attn_jax.analysis import options
from attn_jax.analysis.options import Options
from attn_jax.core.errors import ConfigError
from tests import testing
from tests.analysis import runs


def test_options_are_checked():
    with pytest.raises(ConfigError, match="denoise is 'middle'"):
        Options(denoise="middle")
    with pytest.raises(ConfigError, match="stream:query"):
        Options(streams=("suffix",))
    assert list(Options(streams=("prefix:text/word/red",)).pairs()) == [("prefix", "text/word/red")]


def test_cameras_with_masks_come_first(tmp_path):
    source = runs.source(runs.write_run(tmp_path, attention=False))
    assert options.chosen_cameras(source, Options()) == ("front", "wrist")
    assert options.chosen_cameras(source, Options(cameras=("wrist",))) == ("wrist",)
    with pytest.raises(ConfigError, match=r"no camera 'left'.*front, wrist"):
        options.chosen_cameras(source, Options(cameras=("left",)))
    assert options.with_masks(source, Options()) == ("front", "wrist")
    bare = runs.source(runs.write_run(tmp_path / "bare", attention=False, objects=()))
    assert options.with_masks(bare, Options()) == ("front", "wrist")  # the error comes later


if __name__ == "__main__":
    testing.main()
