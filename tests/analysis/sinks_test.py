"""Tests of attn_jax.analysis.sinks."""

import numpy as np
import pytest

from attn_jax.analysis import sinks
from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from tests import testing

LAYOUT = TokenLayout(
    260,
    (
        TokenGroup("image/wrist", tuple(range(256)), (16, 16), (0, 0, 224, 224)),
        TokenGroup("bos", (256,)),
        TokenGroup("text", (257, 258)),
        TokenGroup("pad", (259,), valid=False),
    ),
)
CONTENT = np.ones((16, 16))
CONTENT[0] = 0.0
CONTENT[1] = 0.5


def planted(sink_share, calls=3):
    """Half of the mass on BOS; of the other half, `sink_share` on patch (7, 4), the rest even."""
    values = np.zeros((calls, 1, 1, 1, 260, 260), np.float32)
    values[..., 256] = 0.5
    camera = np.full((16, 16), 0.5 * (1 - sink_share) / 255)
    camera[7, 4] = 0.5 * sink_share
    values[..., :256] = camera.ravel()
    return AttentionRecord("prefix", values, LAYOUT, (0,), (0,))


def test_masses_of_planted_sinks():
    mass = sinks.sink_mass(planted(0.4), "image/wrist", CONTENT, query="text")
    np.testing.assert_allclose(mass.bos, 0.5, rtol=1e-6)
    np.testing.assert_allclose(mass.camera, 0.5, rtol=1e-6)
    np.testing.assert_allclose(mass.patches, 0.2, rtol=1e-6)
    np.testing.assert_allclose(mass.bars, 0.3 * (16 + 8) / 255, rtol=1e-5)


def test_a_patch_is_a_sink_only_when_it_stays():
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.ones(256), 40).reshape(40, 16, 16)
    assert not sinks.sink_patches(maps).any()
    moving = maps.copy()
    for t, (r, c) in enumerate(rng.integers(0, 16, (40, 2))):
        moving[t, r, c] += 0.05
    assert not sinks.sink_patches(moving).any()
    staying = maps.copy()
    staying[:, 3, 3] += 0.05
    assert np.argwhere(sinks.sink_patches(staying)).tolist() == [[3, 3]]


def test_corrected_maps_have_no_sinks_and_sum_to_one():
    maps = planted(0.4).values[:, 0, 0, 0, 257, :256].reshape(3, 16, 16)
    found = sinks.sink_patches(maps)
    clean = sinks.corrected(maps, found, bars=1 - CONTENT)
    np.testing.assert_allclose(clean.sum((1, 2)), 1.0)
    assert (clean[:, 7, 4] == 0).all() and (clean[:, 0] == 0).all()
    np.testing.assert_allclose(clean[:, 1] * 2, clean[:, 2])  # half bar, half of the mass
    assert np.isnan(sinks.corrected(maps, np.ones((16, 16), bool))).all()
    np.testing.assert_allclose(
        sinks.corrected(maps, np.zeros((16, 16), bool)), maps / 0.5, rtol=1e-6
    )


def test_without_bos_its_mass_is_unknown():
    layout = TokenLayout(
        5, (TokenGroup("image/wrist", (0, 1, 2, 3), (2, 2)), TokenGroup("text", (4,)))
    )
    record = AttentionRecord(
        "prefix", np.full((1, 1, 1, 1, 5, 5), 0.2, np.float32), layout, (0,), (0,)
    )
    mass = sinks.sink_mass(record, "image/wrist", np.ones((2, 2)))
    assert np.isnan(mass.bos).all()
    np.testing.assert_allclose(mass.camera, 0.8, rtol=1e-6)


def test_reduced_records_are_refused():
    record = AttentionRecord(
        "prefix",
        np.ones((1, 1, 1, 1, 260, 1), np.float32),
        LAYOUT,
        (0,),
        (0,),
        reduction="group_mass",
        key_names=("text",),
    )
    with pytest.raises(RecordError, match="reduce=full"):
        sinks.sink_mass(record, "image/wrist", CONTENT)


if __name__ == "__main__":
    testing.main()
