"""Canvas geometry against the sizes that the field's canvases have."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.canvas import CanvasGeometry, patchify, unpatchify
from attn_jax.core.errors import ConfigError
from tests import testing


@pytest.mark.parametrize(
    ("frame", "separator", "canvas", "grid", "visible", "masked"),
    [
        ((224, 224), 8, (224, 688), (14, 43), 406, 196),
        ((224, 224), 16, (224, 704), (14, 44), 420, 196),
        ((224, 224), 32, (224, 736), (14, 46), 448, 196),
        ((448, 224), 16, (448, 704), (28, 44), 840, 392),
        ((64, 64), 16, (64, 224), (4, 14), 40, 16),
    ],
)
def test_known_sizes(frame, separator, canvas, grid, visible, masked):
    geometry = CanvasGeometry(frame, separator=separator)
    assert geometry.canvas_size == canvas
    assert geometry.grid == grid
    assert len(geometry.visible_patches()) == visible
    assert len(geometry.target_patches()) == masked
    assert geometry.frame_columns(2)[1] == canvas[1]


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(
        ConfigError, match="canvas height 100 is not a multiple of the patch size 16"
    ):
        CanvasGeometry((100, 224))
    with pytest.raises(ConfigError, match="positive"):
        CanvasGeometry((64, 64), history=1)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 4), st.sampled_from([8, 16, 32]))
def test_layout_covers_every_token_and_coverage_sums_to_one(rows, columns, history, separator):
    try:
        geometry = CanvasGeometry((16 * rows, 16 * columns), history, separator)
    except ConfigError:
        return  # the canvas width does not divide for this combination
    total = geometry.layout.fractions().sum(axis=0)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)
    assert len(geometry.layout.names) == 2 * history  # cls, frames and separators


def test_stripes_off_the_patch_grid_go_to_the_larger_share():
    geometry = CanvasGeometry((224, 224), separator=8)
    layout = geometry.layout
    # Patch columns 14 and 28 are half frame, half stripe: a tie goes to the stripe.
    assert layout.group("sep0").grid == (14, 1)
    assert layout.group("sep1").grid == (14, 1)
    assert layout.group("frame1").grid == (14, 13)
    first = layout.group("sep0").indices[0]
    assert layout.coverage["sep0"][first] == 0.5
    assert layout.coverage["frame1"][first] == 0.5


def test_default_stripe_has_fourteen_patches_and_boxes_are_pixels():
    layout = CanvasGeometry((224, 224)).layout
    assert len(layout.group("sep1").indices) == 14
    assert layout.group("sep1").box == (0, 464, 224, 16)
    assert layout.group("target").indices == layout.group("frame2").indices
    assert len(layout.tokens("stripes")) == 28


def test_encoder_and_decoder_layouts_name_their_axes():
    geometry = CanvasGeometry((64, 64))
    encoder = geometry.encoder_layout()
    assert len(encoder.axis_tokens("key")) == 41
    assert len(encoder.positions("frame0", "query")) == 16
    decoder = geometry.decoder_layout(geometry.target_patches())
    assert decoder.positions("target", "query").tolist() == list(range(16))


def test_slots_are_disjoint_when_aligned():
    geometry = CanvasGeometry((64, 64))
    slots = [set(geometry.slot_patches(i).tolist()) for i in range(3)]
    assert not slots[0] & slots[1]
    assert not slots[1] & slots[2]
    assert all(len(slot) == 16 for slot in slots)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_patchify_round_trip(rows, columns, seed):
    image = np.random.default_rng(seed).random((2, rows * 4, columns * 4, 3)).astype(np.float32)
    patches = patchify(image, 4)
    assert patches.shape == (2, rows * columns, 48)
    np.testing.assert_array_equal(unpatchify(patches, 4, (rows, columns)), image)
    np.testing.assert_array_equal(np.asarray(patchify(jnp.asarray(image), 4)), patches)


def test_patch_values_are_row_column_channel():
    image = np.arange(4 * 4 * 3).reshape(4, 4, 3)
    assert patchify(image, 2)[1].tolist() == image[:2, 2:].reshape(-1).tolist()


if __name__ == "__main__":
    testing.main()
