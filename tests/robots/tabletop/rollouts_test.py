"""The tabletop as rollouts drive it."""

from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.calibration import points_in
from attn_jax.core.errors import ConfigError
from robots.interface import PolicyEnv
from robots.tabletop.rollouts import TabletopRollouts
from tests import testing


def test_the_protocol():
    env = TabletopRollouts("pick", size=32, max_steps=2)
    assert isinstance(env, PolicyEnv) and env.fps == 10
    prompt = env.reset(env.tasks[0], seed=3, episode=0)
    view, objects = env.view(), env.objects()
    assert {c: p.shape for c, p in view.images.items()} == dict.fromkeys(env.geometry, (32, 32, 3))
    target = next(name for name, role in objects.roles.items() if role == "target")
    assert env.other_prompts and all(target not in other for other in env.other_prompts)
    assert target in prompt and view.state.dtype == np.float32
    mask = objects.masks["front"][objects.names.index(target)]
    assert mask.shape == (32, 32) and mask.any() and not mask.all()
    first, second = (env.step(np.zeros(7, np.float32)) for _ in range(2))
    assert not first.done and second.done and not second.success
    assert env.reset(env.tasks[0], seed=3, episode=1) == prompt
    np.testing.assert_array_equal(env.view().images["front"], view.images["front"])
    env.close()


def test_cameras_find_each_others_points():
    """A thing's pixels in one picture lie on the thing in the other, where it is seen."""
    env = TabletopRollouts("pick", size=192)  # edges are a pixel wide
    env.reset(env.tasks[0], seed=3, episode=0)
    objects, seen = env.objects(), env.calibration()
    assert [*seen] == [*env.geometry]
    for one, other in (("front", "wrist"), ("wrist", "front")):
        for number, name in enumerate(objects.names):
            pixels = np.argwhere(objects.masks[one][number]).astype(np.float64)
            found = points_in(seen[one], seen[other], pixels)[0]
            found = found[np.isfinite(found).all(-1)]
            assert len(found) > 10, name
            row, column = np.rint(found).astype(int).T
            assert objects.masks[other][number][row, column].mean() > 0.9, name


def test_things_cameras_and_shadows_can_be_chosen():
    settings = {"size": 24, "cameras": ("side",), "colours": ("red", "blue")}
    env = TabletopRollouts("pick", distractors=3, shapes=("cube", "ball"), **settings)
    env.reset(env.tasks[0], seed=0, episode=0)
    assert sorted(env.objects().names) == ["blue ball", "blue cube", "red ball", "red cube"]
    assert list(env.view().images) == ["side"] == list(env.geometry)
    bare = TabletopRollouts(
        "pick", distractors=3, shapes=("cube", "ball"), shadows=False, **settings
    )
    bare.reset(bare.tasks[0], seed=0, episode=0)
    lighter = bare.view().images["side"].astype(int) - env.view().images["side"]
    assert lighter.min() >= 0 and lighter.max() > 20
    with pytest.raises(ConfigError, match="9 distractors"):
        TabletopRollouts("pick", distractors=9)


def test_an_argument_that_it_does_not_have():
    with pytest.raises(ConfigError, match=r"env: the tabletop has no foo\. It has task, size"):
        TabletopRollouts("pick", foo=1)


if __name__ == "__main__":
    testing.main()
