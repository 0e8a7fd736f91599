"""Tests of attn_jax.analysis.patches."""

import numpy as np
import pytest

from attn_jax.analysis import patches
from attn_jax.core.errors import ConfigError
from tests import testing
from tests.analysis import records


def _disc(y, x, size=64, radius=5):
    yy, xx = np.mgrid[:size, :size]
    inside = (yy - y) ** 2 + (xx - x) ** 2 <= radius**2
    return np.repeat((inside * 255).astype(np.uint8)[..., None], 3, -1)


def test_every_disc_is_found_wherever_it_lies():
    for y in range(5, 59, 3):
        for x in range(5, 59, 7):
            found = patches.bright_patches(_disc(y, x), (4, 4))
            brightest = (y // 16) * 4 + x // 16
            assert brightest in found
            assert len(found) <= 4


def test_a_black_frame_has_none():
    assert len(patches.bright_patches(np.zeros((64, 64, 3), np.uint8), (4, 4))) == 0


def test_patch_lists():
    assert patches.parse_patches("3, 0-2,2", 16).tolist() == [0, 1, 2, 3]
    for text in ("", "a", "1;2", "3-1", "16", "1-16"):
        with pytest.raises(ConfigError):
            patches.parse_patches(text, 16)


def test_frame_patches_become_tokens_by_the_layout():
    layout = records.GEOMETRY.layout
    tokens = patches.frame_tokens(layout, "target", np.array([0, 5]))
    assert tokens.tolist() == [1 + 10, 1 + 14 + 11]
    with pytest.raises(ConfigError, match=r"patches 0\.\.15"):
        patches.frame_tokens(layout, "target", np.array([16]))


if __name__ == "__main__":
    testing.main()
