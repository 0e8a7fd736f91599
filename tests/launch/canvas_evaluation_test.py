"""Evaluation of canvas models on a recorded dot: definitions, determinism, unknown worlds."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data.pipeline import CanvasSource, load_frames
from attn_jax.data.session_writer import SessionWriter
from attn_jax.models.canvas import predict as predicting
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel
from configs.toroidal_dot import get_config
from launch import canvas_evaluation as ce
from launch import record as launch_record
from robots.toroidal_dot import DotConfig, render, step
from tests import testing
from tests.launch.dot_session import record_dot

GEOMETRY = CanvasGeometry((64, 64))
CONFIG = CanvasConfig(
    GEOMETRY, dim=16, encoder_depth=1, decoder_dim=16, decoder_depth=1, head_dim=8
)
SETTINGS = ce.EvaluationConfig(batch_size=4, counterfactuals=5, rollouts=3, horizon=4, pictures=2)
WORLD = ce.DotWorld(DotConfig.of_size(64))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> CanvasSource:
    path = record_dot(tmp_path_factory.mktemp("sessions") / "dot", 14)
    return CanvasSource(load_frames(path), GEOMETRY)


@pytest.fixture(scope="module")
def params():
    blank = np.zeros((1, 64, 224, 3), np.float32)
    return jax.jit(CanvasModel(CONFIG).init)(jax.random.key(0), blank)["params"]


def true_frames(source: CanvasSource, canvas: np.ndarray) -> np.ndarray:
    """What an all-knowing model would answer: the rendered outcome of the last stripe."""
    last = predicting.crop_last_visible(canvas, GEOMETRY)
    moved = canvas[:, 0, GEOMETRY.separator_columns(1)[0], 1] > 128  # green means move
    outcomes = WORLD.outcomes(last, list(source.store.action_space))
    return outcomes[np.arange(len(canvas)), moved.astype(int)].astype(np.float32) / 255


def test_numbers_and_pictures_of_everything(source, params):
    result = ce.evaluate(CONFIG, params, source, WORLD, SETTINGS)
    numbers, pictures = result.numbers, result.pictures
    assert numbers["skill"]["canvases"] == 12
    assert numbers["action_names"] == ["action=0", "action=1"]
    assert sum(a["canvases"] for a in numbers["per_action"].values()) == 12
    assert numbers["counterfactual"]["observations"] == 5
    assert numbers["rollout"]["horizon"] == [1, 2, 3, 4]
    assert pictures["canvas"].shape == (2, 64, 224, 3)
    assert pictures["counterfactual/prediction"].shape == (2, 2, 64, 64, 3)
    assert pictures["rollout/truth"].shape == (2, 4, 64, 64, 3)
    assert all(picture.dtype == np.uint8 for picture in pictures.values())
    canvas = source.gather(np.arange(12))["canvas"]
    true = canvas[:, :, slice(*GEOMETRY.frame_columns(2))].astype(np.float32) / 255
    for name, grey in (("best_constant", true.mean()), ("black", 0.0)):
        psnr = -10 * np.log10(np.square(true - grey).mean((1, 2, 3)))
        np.testing.assert_allclose(numbers["skill"][f"{name}_psnr_db"], psnr.mean(), rtol=1e-4)
        assert 0 < numbers["skill"][f"{name}_ssim"] < 1
    again = ce.evaluate(CONFIG, params, source, WORLD, dataclasses.replace(SETTINGS, batch_size=3))
    np.testing.assert_allclose(
        again.numbers["skill"]["plain_mse"], numbers["skill"]["plain_mse"], rtol=1e-5
    )
    for name in ("best_constant_psnr_db", "best_constant_ssim", "black_psnr_db", "black_ssim"):
        np.testing.assert_allclose(again.numbers["skill"][name], numbers["skill"][name], rtol=1e-5)


def test_an_all_knowing_model_scores_perfectly(source, params, monkeypatch):
    def knowing(params, canvas):
        return true_frames(source, np.asarray(canvas))

    monkeypatch.setattr(ce.predicting, "make_predict", lambda config: knowing)
    skill = ce.skill(CONFIG, params, source, WORLD, SETTINGS).numbers["skill"]
    assert skill["hit_rate_3px"] == 1.0
    assert skill["median_dot_error_px"] == 0.0
    assert skill["plain_mse"] < 1e-3 < skill["copy_last_mse"]  # JPEG noise remains
    assert skill["copy_last_hit_rate_3px"] < 1.0


def test_counterfactuals_know_right_from_wrong(source, params, monkeypatch):
    colours = {True: (0, 255, 0), False: (255, 0, 0)}

    def program(knows: bool):
        def counterfactual(params, canvas, given):
            frames = []
            for colour in np.asarray(given):
                painted = np.array(canvas)
                start, stop = GEOMETRY.separator_columns(1)
                move = bool(colour[1] > 128)
                painted[:, :, start:stop] = colours[move if knows else not move]
                frames.append(true_frames(source, painted))
            return np.stack(frames, axis=1)

        return lambda config: counterfactual

    for knows in (True, False):
        monkeypatch.setattr(ce.predicting, "make_counterfactual", program(knows))
        found = ce.counterfactuals(CONFIG, params, source, WORLD, SETTINGS)
        numbers = found.numbers["counterfactual"]
        assert numbers["correct_rate"] == numbers["hit_rate_3px"] == float(knows)
        assert numbers["divergence"] > 1.0


def test_an_unknown_world_gives_null_instead_of_a_guess(source, params):
    numbers = ce.evaluate(CONFIG, params, source, None, SETTINGS).numbers
    assert numbers["skill"]["hit_rate_3px"] is None
    assert numbers["counterfactual"]["correct_rate"] is None
    assert numbers["rollout"]["median_dot_error_px"] == [None] * 4
    assert numbers["skill"]["plain_mse"] > 0


def test_the_truth_is_that_of_the_world_that_was_recorded(tmp_path):
    """A dot that is no standard one: what the evaluation holds for true is what happened next."""
    settings = get_config("size=64")
    settings.steps = 20
    settings.robot.update({"size": 48, "move": 9, "radius": 3})
    settings.session.image_format = "png"
    launch_record.main(settings, tmp_path / "s")
    store = load_frames(tmp_path / "s")
    world = ce.world_of([tmp_path / "s"], CanvasGeometry(store.frame_size))
    assert world == ce.DotWorld(DotConfig(size=48, move=9, radius=3))
    outcomes = world.outcomes(store.frames[:-1], list(store.action_space))
    taken = store.action_after[:-1]
    assert set(taken) == {0, 1}
    np.testing.assert_array_equal(outcomes[np.arange(19), taken], store.frames[1:])
    assert world.error_px(outcomes[:, 0], outcomes[:, 1]).tolist() == [9.0] * 19


def dot_session(path, robot_type="ToroidalDot", **meta):
    """An empty session; the world is known from its metadata alone."""
    with SessionWriter(path, action_space=[], robot_type=robot_type, extra_meta=meta):
        return path


def test_worlds_that_were_not_recorded(tmp_path, caplog):
    dot, jetbot = dot_session(tmp_path / "dot"), dot_session(tmp_path / "jetbot", "JetBot")
    assert ce.world_of([dot], GEOMETRY) == WORLD
    assert ce.world_of([jetbot], GEOMETRY) is None
    assert not caplog.records
    assert ce.world_of([dot], CanvasGeometry((48, 48))) is None
    assert "does not say how its dot moves" in caplog.text


def test_sessions_of_different_worlds_have_none_in_common(tmp_path, caplog):
    one, same, other = (
        dot_session(tmp_path / name, robot={"size": 64, "move": move, "radius": 5})
        for name, move in (("one", 9), ("same", 9), ("other", 7))
    )
    assert ce.world_of([one, same], GEOMETRY) == ce.DotWorld(DotConfig(64, 9, 5))
    assert not caplog.records
    assert ce.world_of([one, other], GEOMETRY) is None
    assert "different worlds" in caplog.text


@pytest.mark.parametrize(
    ("robot", "message"),
    [
        ({"size": 64, "move": 7}, "size, move, radius in whole pixels"),
        ({"size": 64, "move": 7, "radius": 5, "colour": 1}, "size, move, radius in whole pixels"),
        ({"size": 64, "move": 7.5, "radius": 5}, "size, move, radius in whole pixels"),
        ({"size": 64, "move": 0, "radius": 5}, "0 < move < size"),
        ({"size": 48, "move": 7, "radius": 5}, "frames of 48 pixels"),
    ],
)
def test_a_damaged_description_of_the_world_is_no_world(tmp_path, robot, message):
    with pytest.raises(SessionError, match=f"session_meta.json: `robot`.*{message}"):
        ce.world_of([dot_session(tmp_path / "dot", robot=robot)], GEOMETRY)


def test_a_dot_that_is_not_there_is_infinitely_far():
    frames = np.stack([render(10, 20, WORLD.config), render(60, 20, WORLD.config)])
    truth = np.stack([render(12, 20, WORLD.config), render(2, 20, WORLD.config)])
    assert WORLD.error_px(frames, truth).tolist() == [2.0, 6.0]
    assert np.isinf(WORLD.error_px(frames * 0, truth)).all()


def test_outcomes_are_those_of_the_simulator():
    outcome = WORLD.outcomes(render(60, 5, WORLD.config)[None], [{"action": 0}, {"action": 1}])
    moved = step(60, {"action": 1}, WORLD.config)
    np.testing.assert_array_equal(outcome[0, 0], render(60, 5, WORLD.config))
    np.testing.assert_array_equal(outcome[0, 1], render(moved, 5, WORLD.config))


def test_a_recording_too_short_for_a_rollout_has_none(source, params):
    few = dataclasses.replace(SETTINGS, rollouts=0)
    assert ce.rollouts(CONFIG, params, source, WORLD, few).numbers["rollout"] is None
    long = dataclasses.replace(SETTINGS, horizon=50)
    assert ce.rollouts(CONFIG, params, source, WORLD, long).numbers["rollout"]["horizon"][-1] == 12
    with pytest.raises(ConfigError, match="positive"):
        ce.EvaluationConfig(batch_size=0)
    with pytest.raises(ConfigError, match="sizes must be positive"):
        ce.EvaluationConfig(counterfactuals=-1)


if __name__ == "__main__":
    testing.main()
