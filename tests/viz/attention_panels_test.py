import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.viz import attention_panels, heatmap, style
from tests import testing
from tests.viz import recorded

INPUT = (224, 224)
MASK = recorded.duck("front", 1, 3)
PICTURE = recorded.picture("front", MASK)
MAPS = np.random.default_rng(0).random((6, 16, 16)) * 0.01


def shown(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def words(figure):
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [text.get_text() for text in figure.texts] + inside


def test_object_panel_outlines_the_object():
    figure = attention_panels.object_panel(
        PICTURE, MAPS[0], {"duck": MASK, "bowl": np.zeros_like(MASK)}, input_size=INPUT, title="L5"
    )
    picture, alone, outlined = shown(figure)
    np.testing.assert_array_equal(picture, PICTURE)
    green = (np.asarray(outlined) == heatmap.OBJECT).all(-1)
    assert green.any() and not (np.asarray(alone) == heatmap.OBJECT).all(-1).any()
    rows, columns = np.nonzero(green)
    assert abs(columns.mean() - 80) < 2 and abs(rows.mean() - 0.35 * 90) < 2
    assert {"L5", "picture", "attention", "outlined: duck"} <= set(words(figure))


def test_many_objects_are_not_all_named():
    masks = {name: MASK for name in ("a_1", "b_1", "c_1", "d_1", "e_1")}
    figure = attention_panels.object_panel(PICTURE, MAPS[0], masks, input_size=INPUT)
    titles = " ".join(words(figure)).replace("\n", " ")
    assert "a 1, b 1, c 1 and 2 more" in titles and "d 1" not in titles


def test_prompts_share_one_scale():
    """The map of half the size is drawn half as bright, and the scale is that of the largest."""
    half = {"base": MAPS[0], "half": MAPS[0] / 2}
    figure = attention_panels.prompt_comparison(
        PICTURE, half, prompts={"base": "find the duck", "half": ""}, input_size=INPUT
    )
    expected = attention_panels.draw(
        PICTURE, MAPS[0] / 2, input_size=INPUT, scale=float(MAPS[0].max())
    )
    np.testing.assert_array_equal(shown(figure)[1], expected)
    assert {"find the duck", "(no words)"} <= set(words(figure))
    with pytest.raises(ConfigError, match="no map"):
        attention_panels.prompt_comparison(PICTURE, {}, input_size=INPUT)


def test_differences_are_symmetric_about_nothing():
    base = np.full((16, 16), 0.01)
    other = base.copy()
    other[6:10, 2:6], other[6:10, 10:14] = 0.02, 0.0
    figure = attention_panels.difference_maps(
        PICTURE, {"base": base, "other": other, "same": base}, input_size=INPUT
    )
    picture, changed, same = (np.asarray(one).astype(int) for one in shown(figure)[:3])
    np.testing.assert_array_equal(picture, PICTURE)
    # Patches 2-5 of 16 lie at columns 20-60 of 160, patches 10-13 at 100-140; row 45 is the middle.
    assert changed[45, 40, 0] > changed[45, 40, 2] + 30  # red: more
    assert changed[45, 120, 2] > changed[45, 120, 0] + 30  # blue: less
    assert np.ptp(same, axis=-1).max() <= 12  # grey, but for the tint of white
    with pytest.raises(ConfigError, match="two maps"):
        attention_panels.difference_maps(PICTURE, {"base": base}, input_size=INPUT)


@pytest.mark.parametrize(("steps", "pictures", "rows"), [(4, 4, 1), (10, 10, 2), (30, 10, 2)])
def test_denoising_strip_is_thinned(steps, pictures, rows):
    maps = np.random.default_rng(0).random((steps, 16, 16))
    figure = attention_panels.denoising_strip(
        PICTURE, maps, range(steps), input_size=INPUT, times=np.linspace(1, 0.1, steps).tolist()
    )
    assert len(shown(figure)) == pictures
    if rows == 1:
        assert "step 0\nt = 1" in words(figure)
    else:
        assert f"-{steps - 1}" in [w for w in words(figure) if w.startswith("steps")][1]


def test_atlas_has_a_row_per_layer_and_a_scale_per_map():
    maps = MAPS.reshape(2, 3, 16, 16)
    figure = attention_panels.head_atlas(PICTURE, maps, (2, 5), (0, 1, 2), input_size=INPUT)
    assert len(shown(figure)) == 6
    expected = attention_panels.draw(PICTURE, maps[1, 2], input_size=INPUT)
    np.testing.assert_array_equal(shown(figure)[5], expected)
    assert {"layer 5", "head 2", "attention mass, a scale per map"} <= set(words(figure))
    mean = attention_panels.head_atlas(
        PICTURE, maps[:, :1], (2, 5), (), input_size=INPUT, shared=True
    )
    assert {"mean of heads", "attention mass per patch"} <= set(words(mean))


def test_time_grid_thins_calls_and_keeps_the_ends():
    pictures = np.stack([PICTURE] * 12)
    maps = np.random.default_rng(0).random((12, 2, 16, 16))
    figure = attention_panels.time_grid(
        pictures, maps, [10 * i for i in range(12)], ["layer 2", "layer 5"], input_size=INPUT
    )
    titles = [text for text in words(figure) if text.startswith("step")]
    assert len(titles) == 8 and titles[0] == "step 0" and titles[-1] == "step 110"
    assert len(shown(figure)) == 3 * 8
    assert style.to_rgb(figure).shape[1] == round(figure.get_size_inches()[0] * style.DPI)


if __name__ == "__main__":
    testing.main()
