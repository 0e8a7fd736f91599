import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import SessionError
from attn_jax.data.canvas import build_canvas, stripe_colour, to_frame
from tests import testing
from tests.data.fake_sessions import noise


def reference_canvas(frames, colours, height, width, separator):
    """The canvas rules once more, pixel by pixel column."""
    columns = []
    for number, frame in enumerate(frames):
        if frame.dtype != np.uint8:
            frame = (np.minimum(np.maximum(frame, 0), 1) * 255).astype(np.uint8)
        if frame.shape[:2] != (height, width):
            frame = np.asarray(Image.fromarray(frame).resize((width, height), Image.LANCZOS))
        columns.append(frame)
        if number < len(colours):
            columns.append(np.full((height, separator, 3), colours[number], np.uint8))
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("separator", [8, 16, 32])
def test_bytes_equal_the_reference(separator):
    geometry = CanvasGeometry((64, 64), separator=separator, patch=8)
    frames = [noise(0, (64, 64)), noise(1, (48, 80)), noise(2, (64, 64)) / 200.0 - 0.1]
    canvas = build_canvas(frames, [{"action": 0}, {"action": 2}], geometry)
    expected = reference_canvas(frames, [(255, 0, 0), (0, 0, 255)], 64, 64, separator)
    assert canvas.dtype == np.uint8
    assert canvas.tobytes() == expected.tobytes()


def test_golden_bytes():
    """Change these bytes only when the canvas format changes, which breaks recorded models."""
    frames = [np.full((16, 16, 3), value, np.uint8) for value in (10, 20, 30)]
    canvas = build_canvas(frames, [{"action": 1}, {"action": 0}], CanvasGeometry((16, 16)))
    row = b"\x0a" * 48 + b"\x00\xff\x00" * 16 + b"\x14" * 48 + b"\xff\x00\x00" * 16 + b"\x1e" * 48
    assert canvas.tobytes() == row * 16


def test_last_slot_is_black_without_its_frame():
    geometry = CanvasGeometry((16, 16))
    canvas = build_canvas([noise(0), noise(1)], [{"action": 1}, {"action": 0}], geometry)
    start, stop = geometry.frame_columns(2)
    assert not canvas[:, start:stop].any()
    assert canvas[:, :start].any()


@pytest.mark.parametrize(
    ("action", "colour"),
    [
        ({"action": 0}, (255, 0, 0)),
        ({"action": 1}, (0, 255, 0)),
        ({"action": 2, "duration": 0.5}, (0, 0, 255)),
        ({"motor_left": 0, "motor_right": 0, "duration": 0.2}, (255, 0, 0)),
        ({"motor_left": 0, "motor_right": 0.12}, (0, 255, 0)),
        ({"motor_right": 0.06, "action": 2}, (127, 127, 0)),
        ({"motor_right": -1.0}, (255, 0, 0)),
        ({"motor_right": 9.0}, (0, 255, 0)),
        ({"motor_right": 10**400}, (0, 255, 0)),
    ],
)
def test_stripe_colours(action, colour):
    assert stripe_colour(action) == colour


@pytest.mark.parametrize(
    "action",
    [
        {"action": 3},
        {"action": "1"},
        {"action": [1]},
        {},
        {"motor_left": 0.1},
        {"motor_right": None},
        {"motor_right": "0.1", "action": 1},
        {"motor_right": float("nan")},
    ],
)
def test_action_without_colour(action):
    with pytest.raises(SessionError, match="no stripe colour"):
        stripe_colour(action)
    assert stripe_colour(action, strict=False) == (255, 255, 0)


@given(st.floats(0, 0.12))
def test_motor_stripe_is_a_mix_of_red_and_green(value):
    red, green, blue = stripe_colour({"motor_right": value})
    assert 253 <= red + green <= 255 and blue == 0
    assert abs(green - 255 * value / 0.12) <= 1


def test_float_frame_is_truncated_not_rounded():
    frame = np.full((16, 16, 3), 0.999, np.float32)
    assert (to_frame(frame, (16, 16)) == 254).all()


def test_wrong_numbers_and_shapes():
    geometry = CanvasGeometry((16, 16))
    with pytest.raises(SessionError, match="3 frames"):
        build_canvas([noise(0)], [{"action": 0}] * 2, geometry)
    with pytest.raises(SessionError, match="2 actions, got 3 and 1"):
        build_canvas([noise(0)] * 3, [{"action": 0}], geometry)
    with pytest.raises(SessionError, match="shape"):
        to_frame(np.zeros((16, 16), np.uint8), (16, 16))
    with pytest.raises(SessionError, match="int64"):
        to_frame(np.zeros((16, 16, 3), np.int64), (16, 16))


if __name__ == "__main__":
    testing.main()
