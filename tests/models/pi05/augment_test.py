from __future__ import annotations

import jax
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.models.pi05.augment import Augmentation, augmented
from tests import testing

IMAGES = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 2, 8, 8, 3)).astype(np.float32)
KEY = jax.random.key(3)


def test_nothing_is_changed_unless_asked_for():
    assert augmented(Augmentation(), IMAGES, KEY) is IMAGES


def test_a_shift_moves_whole_pictures_by_at_most_so_many_pixels():
    out = np.asarray(augmented(Augmentation(shift=2), IMAGES, KEY))
    found = []
    for picture, moved in zip(IMAGES.reshape(-1, 8, 8, 3), out.reshape(-1, 8, 8, 3), strict=True):
        inside = moved[2:-2, 2:-2]
        places = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if np.allclose(inside, picture[dy : dy + 4, dx : dx + 4])
        ]
        assert len(places) == 1
        found += places
    assert len(set(found)) > 1


def test_light_changes_every_pixel_alike_and_stays_in_range():
    out = np.asarray(augmented(Augmentation(brightness=0.3), IMAGES, KEY))
    added = (out - IMAGES).reshape(4, -1)
    np.testing.assert_allclose(added, added[:, :1] * np.ones_like(added), atol=1e-6)
    assert 0.01 < np.abs(added).max() <= 0.3 and len(np.unique(added[:, 0].round(4))) == 4
    bright = np.asarray(augmented(Augmentation(brightness=0.9, contrast=0.9), IMAGES, KEY))
    assert bright.min() >= -1 and bright.max() <= 1


def test_bad_values():
    nan, inf = float("nan"), float("inf")
    numbers = ({"contrast": nan}, {"brightness": nan}, {"brightness": inf})
    for changes in ({"shift": -1}, {"contrast": 1.0}, {"brightness": -0.1}, *numbers):
        with pytest.raises(ConfigError, match="augment"):
            Augmentation(**changes)


if __name__ == "__main__":
    testing.main()
