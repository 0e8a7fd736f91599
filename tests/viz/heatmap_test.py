"""Tests of attn_jax.viz.heatmap."""

import matplotlib
import numpy as np
import pytest

from attn_jax.core import geometry
from attn_jax.core.errors import ConfigError, LayoutError
from attn_jax.viz import heatmap
from tests import testing
from tests.analysis import records

LAYOUT = records.GEOMETRY.layout
GREY = np.full((64, 224, 3), 100, np.uint8)


def _last_colour():
    return np.asarray(matplotlib.colormaps["viridis"](1.0, bytes=True))[:3]


def test_colours_are_clipped_and_unknown_maps_refused():
    ends = heatmap.colours(np.array([-1.0, 0.0, 1.0, 7.0]))
    assert ends.dtype == np.uint8 and ends.shape == (4, 3)
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[2], ends[3])
    with pytest.raises(ConfigError, match="unknown colour map 'jett'"):
        heatmap.colours(np.zeros(2), "jett")


def test_blend_is_six_to_four_at_the_hottest_patch():
    heat = np.zeros((4, 14))
    heat[2, 5] = 0.3
    out = heatmap.overlay(GREY, heat, smooth=False)
    assert out.dtype == np.uint8
    expected = np.rint(0.6 * 100 + 0.4 * _last_colour())
    np.testing.assert_array_equal(out[32:48, 80:96], np.broadcast_to(expected, (16, 16, 3)))
    cold = np.rint(60 + 0.4 * heatmap.colours(np.zeros(1))[0])
    np.testing.assert_array_equal(out[0, 0], cold)


def test_negative_weights_cannot_wrap_around():
    heat = np.full((4, 14), -0.2)
    heat[1, 1] = 1.0
    out = heatmap.overlay(GREY, heat)
    flat = heatmap.overlay(GREY, np.clip(heat, 0, None))
    assert np.abs(out.astype(int) - flat).max() <= np.abs(flat.astype(int) - 60).max()
    far = out[48:, 160:].reshape(-1, 3)
    assert (far == far[0]).all()


def test_a_stated_scale_is_shared():
    weak, strong = np.full((4, 14), 0.1), np.full((4, 14), 0.4)
    alone = heatmap.overlay(GREY, weak)
    np.testing.assert_array_equal(alone, heatmap.overlay(GREY, strong))
    assert not np.array_equal(heatmap.overlay(GREY, weak, scale=0.4), alone)


def test_a_map_without_mass_and_bad_settings():
    flat = heatmap.overlay(GREY, np.zeros((4, 14)))
    assert (flat == flat[0, 0]).all()
    np.testing.assert_array_equal(heatmap.overlay(GREY, np.full((4, 14), -1.0)), flat)
    for bad in ({"share": 1.5}, {"scale": float("nan")}, {"scale": -1.0}):
        with pytest.raises(ConfigError):
            heatmap.overlay(GREY, np.ones((4, 14)), **bad)


def test_unknown_pixels_stay_as_they_are():
    heat = np.ones((64, 224))
    heat[:, :100] = np.nan
    out = heatmap.overlay(GREY, heat)
    assert (out[:, :100] == 100).all()
    assert (out[:, 100:] != 100).any()


def test_difference_is_symmetric_and_white_at_zero():
    picture = heatmap.difference(np.array([[-0.5, 0.0, 0.5, 9.0]]), scale=0.5)[0].astype(int)
    assert picture[1].min() > 240
    assert picture[0][2] > picture[0][0]  # blue below
    assert picture[2][0] > picture[2][2]  # red above
    np.testing.assert_array_equal(picture[2], picture[3])
    with pytest.raises(ConfigError, match="not positive"):
        heatmap.difference(np.zeros((1, 1)), scale=0.0)


def test_mass_on_a_stripe_does_not_bleed_into_frames():
    weights = np.zeros(57)
    weights[LAYOUT.positions("sep1", "key")] = 1.0
    heat = heatmap.layout_heat(LAYOUT, weights, (64, 224))
    start, stop = records.GEOMETRY.separator_columns(1)
    assert (heat[:, start:stop] == 1.0).all()
    assert (np.delete(heat, np.s_[start:stop], axis=1) == 0.0).all()


def test_layout_heat_has_its_centroid_in_the_patch():
    weights = np.zeros(57)
    token = LAYOUT.tokens("frame1")[5]
    weights[token] = 1.0
    heat = heatmap.layout_heat(LAYOUT, weights, (64, 224))
    y, x = np.mgrid[:64, :224]
    centre = np.array([(heat * y).sum(), (heat * x).sum()]) / heat.sum()
    box = heatmap.token_boxes(LAYOUT, np.array([token]))[0]
    np.testing.assert_allclose(centre, box[:2] + 7.5, atol=1e-3)


def test_groups_that_were_not_recorded_are_unknown():
    layout = records.GEOMETRY.encoder_layout()
    heat = heatmap.layout_heat(layout, np.ones(len(layout.axis_tokens("key"))), (64, 224))
    start, stop = records.GEOMETRY.frame_columns(2)
    assert np.isnan(heat[:, start:stop]).all()
    assert np.isfinite(heat[:, :start]).all()
    with pytest.raises(LayoutError, match="57 weights for 41"):
        heatmap.layout_heat(layout, np.ones(57), (64, 224))
    only_cls = LAYOUT.restrict(keys=["cls"])
    with pytest.raises(LayoutError, match="place in the picture"):
        heatmap.layout_heat(only_cls, np.ones(1), (64, 224))


def test_a_partly_recorded_group_is_drawn_in_blocks():
    kept = [0, *(int(t) for t in LAYOUT.tokens("frame0")[:3])]
    layout = type(LAYOUT)(57, LAYOUT.groups, LAYOUT.aliases, None, tuple(kept), LAYOUT.coverage)
    heat = heatmap.layout_heat(layout, np.array([0.0, 1.0, 2.0, 3.0]), (64, 224))
    np.testing.assert_array_equal(heat[0, :48:16], [1.0, 2.0, 3.0])
    assert np.isnan(heat[0, 48:]).all() and np.isnan(heat[16:]).all()


def test_token_boxes_follow_the_layout():
    boxes = heatmap.token_boxes(LAYOUT, LAYOUT.tokens("target"))
    box = LAYOUT.group("target").box
    np.testing.assert_array_equal(boxes, geometry.patch_boxes((4, 4), box).reshape(-1, 4))
    with pytest.raises(LayoutError, match=r"tokens \[0\]"):
        heatmap.token_boxes(LAYOUT, np.array([0]))


def test_outline_leaves_the_inside_and_the_original_alone():
    out = heatmap.outline(GREY, np.array([[16, 32, 16, 16]]), width=2)
    assert (GREY == 100).all()
    assert (out[18:30, 34:46] == 100).all()
    assert (out[16:18, 32:48] == heatmap.MARK).all()
    assert (out != GREY).any(-1).sum() == 16 * 16 - 12 * 12


def test_a_one_hot_patch_stands_where_it_was_in_the_picture():
    """Patch (5, 9) of 16 x 16 over 224 px; the picture is 720 x 1280, scaled to 126 x 224."""
    one = np.zeros((16, 16))
    one[5, 9] = 1.0
    heat = heatmap.on_picture(one, (720, 1280), (224, 224))
    centre = geometry.letterbox((720, 1280), (224, 224)).to_source(
        np.array([14 * 5 + 6.5, 14 * 9 + 6.5])
    )
    rows, columns = np.mgrid[:720, :1280]
    found = np.array([(rows * heat).sum(), (columns * heat).sum()]) / heat.sum()
    np.testing.assert_allclose(found, centre, atol=0.01)
    turned = heatmap.on_picture(one, (720, 1280), (224, 224), turned=True)
    np.testing.assert_array_equal(turned, heat[::-1, ::-1])


def test_mass_on_the_bars_is_cut_off():
    bars = np.zeros((16, 16))
    bars[:3] = bars[-3:] = 1.0  # rows 0-41 and 182-223; the picture fills 49-174
    heat = heatmap.on_picture(bars, (720, 1280), (224, 224), resize="blocks")
    assert not heat.any()


def test_cubic_enlargement_is_half_pixel_aligned_and_never_negative():
    one = np.zeros((16, 16))
    one[3, 12] = 1.0
    heat = heatmap.enlarge(one, (224, 224), "cubic")
    assert heat.min() == 0.0
    rows, columns = np.nonzero(heat == heat.max())
    assert (rows.mean(), columns.mean()) == (14 * 3 + 6.5, 14 * 12 + 6.5)


def test_styles():
    assert heatmap.style_of("seed2") == heatmap.OverlayStyle("jet", 0.4, "cubic")
    assert heatmap.style_of("seed1") == heatmap.OverlayStyle("hot", 0.5, "linear")
    with pytest.raises(ConfigError, match=r"'mine'.*default"):
        heatmap.style_of("mine")
    with pytest.raises(ConfigError, match="unknown resize"):
        heatmap.OverlayStyle(resize="nearest")
    with pytest.raises(ConfigError, match="share of the map is nan"):
        heatmap.OverlayStyle(share=float("nan"))


def test_contours_surround_the_mask():
    mask = np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    picture = np.zeros((20, 20, 3), np.uint8)
    out = heatmap.contours(picture, mask)
    green = (out == (0, 255, 0)).all(-1)
    assert green[5, 5:15].all() and green[14, 5:15].all() and green[5:15, 5].all()
    assert not green[8:12, 8:12].any() and not green[:3].any()
    assert not picture.any()  # a copy


if __name__ == "__main__":
    testing.main()
