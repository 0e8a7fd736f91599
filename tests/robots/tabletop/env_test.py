import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import robots.tabletop  # noqa: F401  (registers the environments)
from attn_jax.core.errors import ConfigError
from robots.tabletop.camera import Camera
from robots.tabletop.env import MOVE_M, TURN_RAD, VIEWS, TabletopEnv
from robots.tabletop.experts import Expert
from robots.tabletop.scene import ROBOT_ID, SHAPES, Scene, Thing
from robots.tabletop.tasks import TASKS, TaskConfig
from tests import testing

FREE = Scene((Thing("cube", "red", (-0.2, 0.2), role="target"),), hand_position=(0.0, 0.0, 0.16))
OPEN = np.array([0, 0, 0, 0, 0, 0, -1.0])


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value == other[key] if isinstance(value, str) else np.array_equal(value, other[key])


@pytest.fixture(scope="module")
def env():
    return TabletopEnv("pick", size=48, views=tuple(VIEWS))


@pytest.mark.parametrize("name", TASKS)
def test_gymnasium_checks(name):
    made = gymnasium.make(
        f"attn_jax/Tabletop{name.capitalize()}-v0", size=16, render_mode="rgb_array"
    )
    assert made.unwrapped.task.name == name
    check_env(made.unwrapped)
    observation, _ = made.reset(seed=0)
    assert made.observation_space.contains(observation)
    made.close()


def test_the_same_seed_gives_the_same_bytes(env):
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 7))
    runs = []
    for seed in (3, 4, 3):
        frames = [env.reset(seed=seed)[0]]
        frames += [env.step(action)[0] for action in actions]
        runs.append(frames)
    for one, other in zip(runs[0], runs[2], strict=True):
        same(one, other)
    assert not np.array_equal(
        runs[0][0]["observation.images.front"], runs[1][0]["observation.images.front"]
    )
    fresh = TabletopEnv("pick", size=48, views=tuple(VIEWS))
    same(fresh.reset(seed=3)[0], runs[0][0])


def test_episodes_without_seed_go_on(env):
    env.reset(seed=1)
    first = [env.reset()[1]["positions"] for _ in range(2)]
    env.reset(seed=1)
    again = [env.reset()[1]["positions"] for _ in range(2)]
    assert np.array_equal(first, again) and not np.array_equal(*first)


@pytest.mark.parametrize("seed", range(4))
def test_masks_lie_where_the_things_are(env, seed):
    """The cloud under a mask, seen from all sides, has its middle at the thing's position."""
    views = TabletopEnv(
        "pick", size=96, cameras=("front", "side", "top"), views=("masks", "points")
    )
    observation, info = views.reset(seed=seed)
    for index, position in enumerate(info["positions"]):
        clouds = [
            observation[f"observation.points.{name}"][
                observation[f"observation.masks.{name}"] == index + 1
            ]
            for name in ("front", "side", "top")
        ]
        assert all(len(cloud) > 30 for cloud in clouds[:1])
        cloud = np.concatenate(clouds)
        middle = (cloud.min(axis=0) + cloud.max(axis=0)) / 2
        assert np.abs(middle - position)[:2].max() < 0.01
        assert np.linalg.norm(np.median(cloud, axis=0) - position) < 0.03


def test_mask_ids_are_those_of_the_things(env):
    observation, info = env.reset(seed=5)
    masks = observation["observation.masks.front"]
    known = {0, *range(1, len(info["objects"]) + 1), ROBOT_ID}
    assert set(np.unique(masks)) <= known and {1, 2} <= set(np.unique(masks))
    channels = {"red": 0, "green": 1, "blue": 2}
    for index, name in enumerate(info["objects"]):
        if (colour := name.split()[0]) in channels:
            seen = observation["observation.images.front"][masks == index + 1]
            assert (seen.argmax(axis=1) == channels[colour]).all()
    assert (observation["observation.masks.wrist"] == ROBOT_ID).mean() > 0.05


def test_depth_is_the_distance_along_the_axis(env):
    observation, _ = env.reset(seed=5)
    camera = env.cameras[0]
    pose = camera.mount_pose
    local = (observation["observation.points.front"] - pose[:3, 3]) @ pose[:3, :3]
    assert np.allclose(local[..., 2], observation["observation.depth.front"], atol=1e-4)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_translations_have_the_documented_scale(env, axis, sign):
    env.reset(options={"scene": FREE})
    before = env.state
    for _ in range(5):
        env.advance(OPEN + sign * np.eye(7)[axis])
    env.advance(OPEN)
    moved = env.state[:3] - before[:3]
    assert moved[axis] == pytest.approx(5 * sign * MOVE_M, abs=2e-3)
    assert np.abs(np.delete(moved, axis)).max() < 1e-3


@pytest.mark.parametrize("axis", range(3))
def test_turns_have_the_documented_scale_and_frame(env, axis):
    env.reset(options={"scene": FREE})
    for _ in range(3):
        env.advance(OPEN + np.eye(7)[3 + axis])
    env.advance(OPEN)
    expected = 3 * TURN_RAD * np.eye(3)[axis]
    assert np.allclose(env.state[3:6], expected, atol=0.02)


def test_turns_are_about_the_axes_of_the_world(env):
    env.reset(options={"scene": FREE})
    for _ in range(4):
        env.advance(OPEN + np.eye(7)[5])  # about z first
    for _ in range(3):
        env.advance(OPEN + np.eye(7)[3])
    env.advance(OPEN)
    _, turn = env.hand_pose
    # A turn about the world's x axis leaves that axis's part of the tool's direction alone.
    down = turn.apply([0.0, 0.0, -1.0])
    assert abs(down[0]) < 0.02 and down[1] == pytest.approx(np.sin(3 * TURN_RAD), abs=0.03)


@pytest.mark.parametrize(("grip", "opening"), [(-1.0, 0.08), (0.0, 0.04), (1.0, 0.0)])
def test_gripper(env, grip, opening):
    env.reset(options={"scene": FREE})
    for _ in range(6):
        env.advance([0, 0, 0, 0, 0, 0, grip])
    assert env.state[6] == pytest.approx(opening, abs=2e-3)


def test_actions_beyond_one_are_clipped(env):
    env.reset(seed=0)
    env.advance(OPEN + 5 * np.eye(7)[2])
    far = env.state
    env.reset(seed=0)
    env.advance(OPEN + np.eye(7)[2])
    assert np.array_equal(far, env.state)


def test_the_hand_stops_at_the_table(env):
    env.reset(options={"scene": FREE})
    for _ in range(25):
        env.advance(OPEN - np.eye(7)[2])
    assert 0.008 < env.state[2] < 0.03
    for _ in range(4):  # and is not stuck there
        env.advance(OPEN + np.eye(7)[2])
    assert env.state[2] > 0.05


def test_what_is_grasped_and_lifted(env):
    cube = Thing("cube", "red", (0.0, 0.0), role="distractor")
    ball = Thing("ball", "blue", (0.08, 0.1), role="target")
    scene = Scene((cube, ball), hand_position=(0.0, 0.0, 0.03))
    _, info = env.reset(options={"scene": scene})
    assert info["grasped"] is info["lifted"] is None
    for _ in range(4):
        *_, info = env.step([0, 0, 0, 0, 0, 0, 1])
    assert info["grasped"] == "red cube" and info["lifted"] is None
    for _ in range(10):
        _, reward, terminated, _, info = env.step([0, 0, 1, 0, 0, 0, 1])
    # The wrong thing: no success, but it is known which it was.
    assert info["lifted"] == info["grasped"] == "red cube"
    assert not terminated and reward == 0 and not info["is_success"]
    for _ in range(4):
        *_, info = env.step(OPEN)
    assert info["grasped"] is None and info["lifted"] == "red cube"


def test_another_target_changes_the_prompt_only(env):
    observation, info = env.reset(seed=7)
    other = next(name for name, role in info["roles"].items() if role == "distractor")
    swapped, swapped_info = env.reset(seed=7, options={"target": other})
    assert swapped["task"] == info["prompts"][other] != observation["task"]
    assert swapped_info["roles"][other] == "target"
    same(swapped | {"task": ""}, observation | {"task": ""})


def test_truncation():
    short = TabletopEnv("pick", size=8, max_steps=3)
    short.reset(seed=0)
    assert [short.step(OPEN)[3] for _ in range(3)] == [False, False, True]


def test_further_cameras_and_sizes():
    tall = Camera("tall", (0.0, 0.4, 0.3), (0.0, 0.0, 0.0), height=20, width=10)
    env = TabletopEnv(
        "place", size=None, cameras=("top", tall), views=("images",), render_mode="rgb_array"
    )
    observation, info = env.reset(seed=0)
    assert observation["observation.images.tall"].shape == (20, 10, 3)
    assert observation["observation.images.top"].shape == (64, 64, 3)
    assert env.render().shape == (64, 74, 3)
    assert [SHAPES[name.split()[1]].fixed for name in info["objects"]].count(True) == 2
    assert TabletopEnv("place", size=8).render() is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "fly"}, "unknown task"),
        ({"cameras": ("back",)}, "unknown camera"),
        ({"cameras": ("front", "front")}, "distinct names"),
        ({"cameras": ()}, "distinct names"),
        ({"views": ("sound",)}, "unknown views"),
        ({"size": 0}, "no picture"),
        ({"max_steps": 0}, "0 steps"),
        ({"render_mode": "human"}, "render_mode"),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(ConfigError, match=message):
        TabletopEnv(**fields)


@pytest.mark.parametrize("action", [np.zeros(6), np.full(7, np.nan)])
def test_bad_actions(env, action):
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="7 finite numbers"):
        env.step(action)


def test_bad_options(env):
    with pytest.raises(ConfigError, match="unknown options"):
        env.reset(options={"prompt": "x"})
    with pytest.raises(ConfigError, match="to ask for"):
        env.reset(seed=0, options={"target": "pink stick"})
    with pytest.raises(ConfigError, match="role target"):
        env.reset(options={"scene": Scene((Thing("cube", "red", (0.0, 0.0)),))})
    with pytest.raises(ConfigError, match="role target and place"):
        TabletopEnv("place", size=8).reset(options={"scene": FREE})


def test_a_task_of_ones_own():
    task = TaskConfig("pick", colours=("pink", "cyan"), shapes=("stick", "bar"), distractors=2)
    _, info = TabletopEnv(task, size=8).reset(seed=0)
    assert len(info["objects"]) == 3
    assert {word for name in info["objects"] for word in name.split()} <= {
        "pink",
        "cyan",
        "stick",
        "bar",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "64"}, "size: pictures of '64' pixels"),
        ({"size": 8.5}, "size: pictures of 8.5 pixels"),
        ({"max_steps": 2.5}, "max_steps: an episode of 2.5 steps"),
    ],
)
def test_numbers_that_are_not_whole(settings, message):
    with pytest.raises(ConfigError, match=message):
        TabletopEnv("pick", **settings)
    with pytest.raises(ConfigError, match=r"distractors: 1\.5 distractors"):
        TaskConfig(distractors=1.5)


def test_use_before_reset_and_a_scene_that_is_none():
    env = TabletopEnv("pick", size=8, render_mode="rgb_array")
    for use in (lambda: env.step(OPEN), env.render, env.pictures):
        with pytest.raises(ConfigError, match=r"no scene yet\. Call reset first"):
            use()
    with pytest.raises(ConfigError, match="options: a scene 'abc'"):
        env.reset(options={"scene": "abc"})


def test_whoever_succeeds_has_lifted():
    """An unplug succeeds 6 cm above the rest, where a pick has not lifted yet."""
    env = TabletopEnv("unplug", size=8)
    _, info = env.reset(seed=0)
    target = next(name for name, role in info["roles"].items() if role == "target")
    expert, over = Expert(env), False
    while not over:
        _, _, done, cut, info = env.step(expert.act())
        over = done or cut
    number = info["objects"].index(target)
    start = env.scene.things[number].position[2]
    assert info["is_success"] and info["lifted"] == target
    env.reset(seed=0)
    while env.grasped != target or env.positions[number, 2] < start + 0.06:
        env.advance(expert.act())
    assert env.positions[number, 2] < start + 0.07  # the expert rises 1.2 cm a step at most
    assert env.step(OPEN)[4]["lifted"] == target


if __name__ == "__main__":
    testing.main()
