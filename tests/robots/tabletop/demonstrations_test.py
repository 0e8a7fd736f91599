import dataclasses

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError
from robots.tabletop.demonstrations import TabletopConfig, demonstrate, demonstrations
from robots.tabletop.tasks import TaskConfig
from tests import testing

SMALL = TabletopConfig(size=8, noise=0.1)


def test_what_a_demonstration_holds():
    demo = next(demonstrations(SMALL, [3]))
    length = demo.info["length"]
    assert demo.success and 15 < length < 40
    shapes = {key: (value.shape, value.dtype.name) for key, value in demo.frames.items()}
    assert shapes == {
        "observation.images.front": ((length, 8, 8, 3), "uint8"),
        "observation.images.wrist": ((length, 8, 8, 3), "uint8"),
        "observation.state": ((length, 7), "float32"),
        "action": ((length, 7), "float32"),
    }
    assert {camera: mask.shape for camera, mask in demo.masks.items()} == {
        "front": (length, 8, 8),
        "wrist": (length, 8, 8),
    }
    target = next(name for name, role in demo.info["roles"].items() if role == "target")
    assert demo.info["lifted"] == demo.info["grasped"] == target
    assert target in demo.info["prompt"] and demo.info["seed"] == 3


def test_recorded_actions_lead_to_the_recorded_states():
    config = dataclasses.replace(SMALL, noise=0.0)
    env = config.make_env()
    demo = demonstrate(env, seed=4, noise=0.0)
    observation, _ = env.reset(seed=4)
    for state, action in zip(demo.frames["observation.state"], demo.frames["action"], strict=True):
        assert np.array_equal(observation["observation.state"], state)
        observation, *_ = env.step(action)


def test_noise_disturbs_the_states_and_not_the_first_action():
    env = SMALL.make_env()
    calm, wild = demonstrate(env, seed=4), demonstrate(env, seed=4, noise=0.3)
    assert np.array_equal(calm.frames["action"][0], wild.frames["action"][0])
    assert not np.allclose(calm.frames["observation.state"][1], wild.frames["observation.state"][1])


def test_every_target_is_asked_for_in_the_same_scene():
    config = TabletopConfig(TaskConfig(distractors=2), size=8, every_target=True)
    demos = list(demonstrations(config, [3, 4]))
    assert [demo.info["seed"] for demo in demos] == [3, 3, 3, 4, 4, 4]
    drawn = list(demonstrations(dataclasses.replace(config, every_target=False), [3, 4]))
    for alone, group in zip(drawn, (demos[:3], demos[3:]), strict=True):
        assert group[0].info == alone.info  # the drawn target comes first, unchanged
        assert {demo.info["lifted"] for demo in group} == set(alone.info["objects"])
        assert len({demo.info["prompt"] for demo in group}) == 3
        for demo in group:
            assert demo.info["lifted"] in demo.info["prompt"]
            for key in ("observation.images.front", "observation.state"):
                assert np.array_equal(demo.frames[key][0], alone.frames[key][0])


def test_a_failure_is_called_one():
    config = TabletopConfig(size=8, max_steps=5)
    demo = next(demonstrations(config, [0]))
    assert not demo.success and demo.info["length"] == 5 and demo.info["lifted"] is None


@pytest.mark.slow
def test_processes_do_not_change_the_result():
    config = TabletopConfig(TaskConfig("unplug"), size=8)
    alone = list(demonstrations(config, range(10), jobs=1))
    shared = list(demonstrations(config, range(10), jobs=2))
    for one, other in zip(alone, shared, strict=True):
        assert one.info == other.info
        for key, value in one.frames.items():
            assert np.array_equal(value, other.frames[key])


@pytest.mark.parametrize("noise", [-0.1, 1.0])
def test_bad_noise(noise):
    with pytest.raises(ConfigError, match="noise"):
        TabletopConfig(noise=noise)


if __name__ == "__main__":
    testing.main()
