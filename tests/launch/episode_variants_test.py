"""Tests of launch.episode_variants: which runs there are, what they need, turned episodes."""

import dataclasses

import numpy as np
import pytest

from attn_jax.bridge.image_resize import model_image
from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import ConfigError
from attn_jax.data.episodes import Episode
from attn_jax.data.prompts import Prompt
from attn_jax.probe.select import Selection
from launch.episode_variants import Occlusion, check_capture, make_variants, turned
from tests import testing

OCCLUSION = Occlusion((3,), ("wrist",), ("black",))


def episode():
    rng = np.random.default_rng(0)
    return Episode(
        info={
            "prompt": "find it",
            "fps": 15,
            "geometry": {"wrist": {"model_rot180": True}},
            "video": {"path": "x.mp4"},
        },
        env_step=np.array([0, 8]),
        images={"wrist": rng.integers(0, 256, (2, 4, 6, 3), np.uint8)},
        objects=("duck",),
        roles={},
        masks={"wrist": rng.random((2, 1, 4, 6)) > 0.5},
        state=np.zeros((2, 3), np.float32),
    )


def test_keys_and_facts():
    hidden = dataclasses.replace(OCCLUSION, layers=(3, 11), fills=("black", "blur"), seeds=2)
    made = make_variants((Prompt("duck", "a duck"),), 1, hidden, (90,))
    keys = [variant.key for variant in made]
    assert keys[:5] == [
        "base",
        "noise_1",
        "duck",
        "occlude_wrist_L3_black_high",
        "occlude_wrist_L3_black_control",
    ]
    assert keys[-2:] == ["occlude_wrist_L11_blur_control_noise_1", "rotate_90"]
    assert len(keys) == 3 + 2 * 2 * 2 * 2 + 1
    assert made[-2].noise == 1 and made[-2].facts(episode())["intervention"] == {
        "set": "control",
        "camera": "wrist",
        "layer": 11,
        "fill": "blur",
        "share": 0.1,
        "noise": "noise_1",
        "kind": "occlusion",
    }
    assert made[3].facts(episode())["intervention"]["noise"] == ""
    assert "intervention" not in made[-1].facts(episode())
    assert [v.settings() for v in made[:1]] == [{"prompt": None}]
    selection = Selection()
    assert made[-1].selection(selection) is selection and made[-2].selection(selection) is None


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="'rotate_90'"):
        make_variants((Prompt("rotate_90", "x"),), rotate=(90,))
    with pytest.raises(ConfigError, match="45 is none of"):
        make_variants(rotate=(45,))
    with pytest.raises(ConfigError, match="--noise_seeds=2"):
        make_variants(noise_seeds=1, occlusion=dataclasses.replace(OCCLUSION, seeds=3))
    for change, message in (
        ({"layers": ()}, "layers"),
        ({"cameras": ("a", "a")}, "cameras"),
        ({"fills": ("pink",)}, "'pink'"),
        ({"share": 0.6}, "0.6"),
    ):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(OCCLUSION, **change)


@pytest.mark.parametrize(
    ("capture", "problem"),
    [
        ("", "no attention is captured"),
        ("streams=prefix;layers=all", "streams=prefix leaves suffix out"),
        ("layers=last:2", "layer 3 is not captured"),
        ("layers=all;reduce=group_mass", "reduce=group_mass keeps no maps"),
        ("layers=all;reduce=prefix.patch_map,suffix.group_mass", "keeps no maps of suffix"),
        ("layers=all;queries=text/*", r"queries=text/\* leaves action out"),
        ("layers=all;keys=image/front,text", "leaves image/wrist out"),
        ("layers=all;every_n=2", "every_n=2 leaves frames out"),
    ],
)
def test_a_capture_without_the_maps_is_refused(capture, problem):
    selection = Selection.parse(capture) if capture else None
    with pytest.raises(ConfigError, match=problem) as caught:
        check_capture(make_variants(occlusion=OCCLUSION), selection, 18)
    fix = caught.value.fix
    assert fix is not None
    assert "--capture='streams=suffix;layers=all;queries=action;reduce=patch_map'" in fix
    check_capture(make_variants(noise_seeds=1), selection, 18)  # needs none


def test_a_capture_with_the_maps_is_taken():
    variants = make_variants(occlusion=OCCLUSION, rotate=(90,))
    for capture in (
        "all",
        "layers=all;reduce=suffix.full,prefix.patch_map",
        "layers=3;queries=act*;keys=image/*;reduce=full",
        "layers=last:15",
    ):
        check_capture(variants, Selection.parse(capture), 18)
    with pytest.raises(ConfigError, match=r"layer 3 is outside 0\.\.2"):
        check_capture(variants, Selection.parse("all"), 3)
    with pytest.raises(ConfigError, match="--rotate"):
        check_capture(make_variants(rotate=(180,)), None, 18)


def test_turned_counter_clockwise():
    before = episode()
    seen = Calibration(np.ones((2, 4, 6)), np.tile(np.eye(4), (2, 1, 1)), np.eye(3))
    after = turned(dataclasses.replace(before, calibration={"wrist": seen}), 90)
    assert not after.calibration  # no camera is held like that
    assert after.images["wrist"].shape == (2, 6, 4, 3)
    # The upper right corner comes to the upper left.
    np.testing.assert_array_equal(after.images["wrist"][:, 0, 0], before.images["wrist"][:, 0, -1])
    np.testing.assert_array_equal(
        after.masks["wrist"][:, :, 0, 0], before.masks["wrist"][..., 0, -1]
    )
    again = turned(turned(after, 180), 90)
    np.testing.assert_array_equal(again.images["wrist"], before.images["wrist"])
    np.testing.assert_array_equal(again.masks["wrist"], before.masks["wrist"])
    assert after.info == {"prompt": "find it", "fps": 15}  # it lies elsewhere in its video
    assert turned(before, 0) is before


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_picture_fills_the_turned_letterbox(degrees):
    """Twice as wide as high: half of the model's input is bar, at other edges after a turn."""
    rng = np.random.default_rng(1)
    images = rng.integers(1, 256, (2, 20, 40, 3), np.uint8)
    wide = dataclasses.replace(episode(), images={"wrist": images}, masks={})
    after = turned(wide, degrees).images["wrist"]
    assert after.shape[1:3] == ((20, 40) if degrees == 180 else (40, 20))
    seen = [model_image((x / 255).astype(np.float32), (28, 28)) for x in (images, after)]
    assert (seen[0] == -1).all(-1).mean() == 0.5
    np.testing.assert_allclose(np.rot90(seen[0], degrees // 90, (1, 2)), seen[1], atol=1e-5)


if __name__ == "__main__":
    testing.main()
