import dataclasses

import numpy as np
import pytest

from attn_jax.core.errors import RecordError
from attn_jax.viz import overlays
from attn_jax.viz.camera_maps import CameraMaps
from attn_jax.viz.heatmap import OverlayStyle
from attn_jax.viz.overlays import Look
from tests import testing

SIZE = (56, 56)
BLOCKS = OverlayStyle("gray", 1.0, "blocks")  # the map alone: white where the hot patch is


def hot(camera, *patches):
    """One hot patch of a 4 x 4 grid per call."""
    values = np.zeros((len(patches), 1, 1, 1, 4, 4))
    for call, (row, column) in enumerate(patches):
        values[call, ..., row, column] = 0.5
    return CameraMaps(camera, values, (17,), (0,), (9,), SIZE)


MAPS = {"front": hot("front", (0, 0), (0, 1)), "wrist": hot("wrist", (1, 0), (1, 1))}
LOOK = Look(style=BLOCKS, scale=0.5)


def white(picture):
    """Patches of 14 px that are white."""
    bright = picture[7::14, 7::14].min(-1) > 200
    return [tuple(map(int, place)) for place in np.argwhere(bright)]


def video(frames=7, width=112):
    return np.zeros((frames, 56, width, 3), np.uint8)


def test_every_frame_shows_the_nearest_previous_call():
    shown = [
        frame[40:] for frame in overlays.on_video(video(), MAPS, LOOK, env_step=(2, 5), info={})
    ]
    assert [white(frame[:, :56]) for frame in shown] == [[]] * 2 + [[(0, 0)]] * 3 + [[(0, 1)]] * 2
    assert [white(frame[:, 56:]) for frame in shown] == [[]] * 2 + [[(1, 0)]] * 3 + [[(1, 1)]] * 2


@pytest.mark.parametrize(
    ("model", "shown", "place"), [(1, 1, (1, 0)), (0, 0, (1, 0)), (1, 0, (2, 3)), (0, 1, (2, 3))]
)
def test_a_panel_turned_against_the_model_turns_its_map(model, shown, place):
    """xor: patch (1, 0) of 4 x 4 becomes (2, 3)."""
    flags = {"model_rot180": bool(model), "video_rot180": bool(shown)}
    info = {"geometry": {"wrist": flags}}
    frame = next(overlays.on_video(video(), MAPS, LOOK, env_step=(0, 5), info=info))[40:]
    assert white(frame[:, 56:]) == [place] and white(frame[:, :56]) == [(0, 0)]


def test_small_videos_are_enlarged_until_their_title_can_be_read():
    assert [overlays.enlargement(width) for width in (112, 128, 359, 360, 512)] == [4, 3, 2, 1, 1]
    frames = np.random.default_rng(0).integers(0, 99, (1, 56, 112, 3), np.uint8)
    shown = next(overlays.on_video(frames, MAPS, LOOK, env_step=(0, 5), info={}, enlarge=4))
    assert shown.shape == (40 + 4 * 56, 4 * 112, 3) and shown[:40, -4:].min() == 255
    # The middles of patches of 4 * 14 pixels.
    assert white(shown[40:, : 4 * 56][2::4, 2::4]) == [(0, 0)]
    assert white(shown[40:, 4 * 56 :][2::4, 2::4]) == [(1, 0)]
    bare = next(overlays.on_video(frames, MAPS, LOOK, env_step=(9, 10), info={}, enlarge=4))
    np.testing.assert_array_equal(bare[40::4, ::4], frames[0])


def test_panels_from_the_metadata():
    info = {"video": {"panels": {"wrist": [0, 0, 56, 56]}}}
    frame = next(overlays.on_video(video(), MAPS, LOOK, env_step=(0, 5), info=info))[40:]
    assert white(frame[:, :56]) == [(1, 0)] and not frame[:, 56:].any()
    info["video"]["panels"]["wrist"] = [0, 60, 56, 56]
    with pytest.raises(RecordError, match="'wrist' lies outside"):
        next(overlays.on_video(video(), MAPS, LOOK, env_step=(0, 5), info=info))


def test_panels_that_cannot_be_told():
    with pytest.raises(RecordError, match="cannot tell where 2 cameras lie"):
        overlays.panels_of({}, ("front", "wrist"), (56, 90))
    # One panel of two cameras: the first, as LeRobot's videos; an odd width was made even.
    assert list(overlays.panels_of({}, ("front", "wrist"), (56, 56))) == ["front"]
    assert overlays.panels_of({}, ("front",), (57, 58))["front"].box == (0, 0, 57, 57)


def test_frame_and_step_are_the_same():
    assert [overlays.nearest_call((0, 10, 20), step) for step in (0, 9, 10, 25)] == [0, 0, 1, 2]
    assert overlays.nearest_call((5,), 4) is None


def test_observations_side_by_side():
    images = {
        "front": np.zeros((2, 28, 56, 3), np.uint8),
        "wrist": np.zeros((2, 56, 56, 3), np.uint8),
    }
    frames = list(overlays.on_calls(images, MAPS, LOOK, env_step=(0, 8), height_px=56))
    assert len(frames) == 2 and frames[0].shape == (96, 112 + 6 + 56, 3)
    assert white(frames[1][40:, 118:]) == [(1, 1)]
    # The front picture fills the middle of its letterbox: the patches of row 0 are bars.
    assert white(frames[0][40:, :112]) == []
    short = {name: one[:1] for name, one in images.items()}
    with pytest.raises(RecordError, match="1 pictures and 2 maps for 2 calls"):
        list(overlays.on_calls(short, MAPS, LOOK, env_step=(0, 8)))
    with pytest.raises(RecordError, match="no camera has both"):
        list(overlays.on_calls({"top": images["wrist"]}, MAPS, LOOK, env_step=(0, 8)))


def test_timestep_panel_names_its_call():
    picture = np.full((56, 56, 3), 255, np.uint8)
    look = dataclasses.replace(LOOK, style=OverlayStyle("gray", 0.5, "blocks"))
    panel = overlays.timestep_panel(picture, MAPS["front"], look, step=13, env_step=(0, 10))
    assert panel.shape == (96, 118, 3)
    assert white(panel[40:, 62:]) == [(0, 1)]  # the map alone
    assert panel[40 + 7, 7 + 14, 0] == 255 and 120 < panel[40 + 7, 7, 0] < 135  # 0.5 white
    text = overlays._title(
        13, 1, (0, 10), MAPS, look, {"front": overlays._drawn(MAPS["front"], look)}
    )
    assert text.startswith("front | step 13 | call 1 at step 10 | action\nlayer 17")
    with pytest.raises(RecordError, match="before the first call, at step 4"):
        overlays.timestep_panel(picture, MAPS["front"], look, step=3, env_step=(4, 10))


def test_one_scale_for_the_episode():
    """99.5 % quantile over all calls: one hot patch in 16 makes it the largest value."""
    assert overlays._drawn(MAPS["front"], Look()).scale == pytest.approx(0.5)
    empty = dataclasses.replace(MAPS["front"], values=np.zeros((1, 1, 1, 1, 4, 4)))
    frames = overlays.on_calls(
        {"front": np.zeros((1, 56, 56, 3), np.uint8)}, {"front": empty}, Look(), env_step=(0,)
    )
    assert len(list(frames)) == 1


def test_titles_have_ink_and_fit():
    bar = overlays.titled(np.zeros((10, 300, 3), np.uint8), "step 3 | call 1\nlayer 17")[:40]
    assert bar.min() < 100 and bar[:, -4:].min() == 255
    long = overlays.titled(np.zeros((10, 300, 3), np.uint8), "step 3 " * 12)[:40]
    assert long[:, -4:].min() == 255


if __name__ == "__main__":
    testing.main()
