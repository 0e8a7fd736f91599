"""From configuration to task: data, splits, errors before long work."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data.frames import load_frames
from attn_jax.data.parts import Part, write_part
from attn_jax.models.canvas import perceptual
from attn_jax.models.canvas.predict import crop_target, target_frames
from configs import canvas as canvas_config
from configs import toroidal_dot
from launch import record as record_launcher
from launch import tasks
from tests import testing
from tests.launch.dot_session import record_dot


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return record_dot(tmp_path_factory.mktemp("sessions") / "dot")


def tiny(session) -> canvas_config.ml_collections.ConfigDict:
    config = canvas_config.get_config("size=64,tiny")
    config.data.sessions = str(session)
    return config


def test_built_task_takes_its_own_batches(session):
    built = tasks.build(tiny(session))
    batch = next(built.data)
    params = built.task.init(jax.random.key(0))
    loss, aux = built.task.loss(params, batch, jax.random.key(1))
    assert np.isfinite(loss)
    assert aux.per_sample.shape == (4,)
    assert built.metadata["family"] == "canvas"
    assert built.metadata["model"]["geometry"]["frame_size"] == (64, 64)
    metrics = built.task.evaluations["validation"](params)
    assert f"validation/{next(iter(metrics))}" == built.best[0]
    assert metrics["canvases"] == built.metadata["validation_canvases"]
    built.data.close()


def test_a_world_of_any_size_is_trained_and_measured(tmp_path):
    settings = toroidal_dot.get_config("size=64")
    settings.steps = 40
    settings.robot.update({"size": 48, "move": 9})
    record_launcher.main(settings, tmp_path / "s")
    built = tasks.build(tiny(tmp_path / "s"))
    assert built.metadata["model"]["geometry"]["frame_size"] == (48, 48)
    metrics = built.task.evaluations["validation"](built.task.init(jax.random.key(0)))
    # Where copying the last frame misses, the dot has moved by 9 pixels.
    assert metrics["copy_last_p95_dot_error_px"] == 9.0
    built.data.close()


def test_the_perceptual_loss_comes_from_a_weights_file(session, tmp_path):
    rng = np.random.default_rng(0)
    weights = {  # of the real shapes
        name: (rng.normal(size=shape) * np.prod(shape[1:]) ** -0.5).astype(np.float32)
        for name, shape in perceptual.tensor_shapes().items()
    }
    path = tmp_path / "vgg16.safetensors"
    perceptual.save_vgg(path, weights)
    config = tiny(session)
    plain = tasks.build(config)
    config.loss.perceptual = 0.25
    with pytest.raises(ConfigError, match=r"Set loss\.vgg_weights to a local .safetensors file"):
        tasks.build(config)
    config.loss.vgg_weights = str(path)
    built = tasks.build(config)
    batch = next(built.data)
    params, rng = built.task.init(jax.random.key(0)), jax.random.key(1)
    loss, aux = built.task.loss(params, batch, rng)
    without, _ = plain.task.loss(params, batch, rng)
    extra = float(aux.metrics["extra"])
    assert extra > 0
    np.testing.assert_allclose(float(loss), float(without) + 0.25 * extra, rtol=1e-5)
    # By hand: the distance of the predicted from the true frames.
    geometry = built.task.config.geometry
    canvas = jnp.asarray(batch["canvas"], jnp.float32) / 255
    predicted = target_frames(built.task.model.apply({"params": params}, canvas), geometry)
    distance = perceptual.perceptual_distance(
        perceptual.load_vgg(path), predicted, crop_target(canvas, geometry)
    )
    np.testing.assert_allclose(extra, float(distance), rtol=1e-4)
    for each in (plain, built):
        each.data.close()


def test_training_and_validation_share_no_frame(session):
    train, held_out = tasks.hold_out(Part("dot", session), 0.15)
    assert (train.start, train.stop, held_out.start, held_out.stop) == (0, 34, 34, 40)
    steps = [set(load_frames(part).steps) for part in (train, held_out)]
    assert not steps[0] & steps[1] and steps[0] | steps[1] == set(range(0, 80, 2))
    built = tasks.build(tiny(session))
    assert built.metadata["train_canvases"] == 32
    assert built.metadata["validation_canvases"] == 4
    built.data.close()


def test_parts_of_ones_own_are_validated_on_unless_they_were_trained_on(session, tmp_path):
    first = write_part(Part("first", session, 0, 20), tmp_path / "first.json")
    rest = write_part(Part("rest", session, 20, 40), tmp_path / "rest.json")
    config = tiny(first)
    config.data.validation = str(rest)
    built = tasks.build(config)
    assert built.metadata["sessions"] == ["first"]
    assert built.metadata["stretches"][0]["last"] == 38
    assert built.metadata["validation_canvases"] == 18
    built.data.close()
    config.data.validation = f"{rest},{session}"
    with pytest.raises(ConfigError, match="part dot shares frames with training part first"):
        tasks.build(config)
    config = tiny(f"{session},{rest}")  # the end of the session is held out and in `rest`
    with pytest.raises(ConfigError, match=r"part dot_validate shares frames with .* rest_train"):
        tasks.build(config)


def test_no_frame_is_trained_on_twice(session, tmp_path):
    with pytest.raises(ConfigError, match="dot_train and dot_train share frames"):
        tasks.build(tiny(f"{session},{session}"))
    parts = [Part("first", session, 0, 20), Part("second", session, 15, 30)]
    paths = [write_part(part, tmp_path / f"{part.name}.json") for part in parts]
    config = tiny(",".join(map(str, paths)))
    config.data.validation = str(write_part(Part("rest", session, 30, 40), tmp_path / "rest.json"))
    with pytest.raises(ConfigError, match="training parts first and second share frames"):
        tasks.build(config)


def test_bad_configurations_are_named_before_anything_is_built(session, tmp_path):
    config = tiny(session)
    config.task = "chess"
    with pytest.raises(ConfigError, match=r"unknown task 'chess'.*canvas"):
        tasks.build(config)
    with pytest.raises(ConfigError, match=r"data.sessions is empty.*--config.data.sessions"):
        tasks.build(canvas_config.get_config("size=64,tiny"))
    with pytest.raises(SessionError, match="no such session"):
        tasks.build(tiny(tmp_path / "nowhere"))
    config = tiny(session)
    config.data.validation_share = 1.5
    with pytest.raises(ConfigError, match="validation_share"):
        tasks.build(config)
    config = tiny(session)
    config.loss.mask_ratio_min = 0.01
    with pytest.raises(ConfigError, match="masks none of the 16 target patches"):
        tasks.build(config)
    config = tiny(session)
    config.model.patch = 48
    with pytest.raises(
        ConfigError, match="canvas height 64 is not a multiple of the patch size 48"
    ):
        tasks.build(config)


if __name__ == "__main__":
    testing.main()
