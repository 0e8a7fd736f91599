import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data import splits
from attn_jax.data.parts import Part, resolve_part, stretch, write_part
from attn_jax.data.pipeline import CanvasSource, load_frames
from attn_jax.data.session_check import validate_session
from attn_jax.data.sessions import read_meta
from tests import testing
from tests.data import fake_sessions

GEOMETRY = CanvasGeometry((16, 16))


def spans(plan):
    return [(part.start, part.stop) for part in plan.parts()]


def test_sizes():
    assert splits.stage_sizes(100) == (10, 20, 40, 80, 100)
    assert splits.stage_sizes(80) == (10, 20, 40, 80)
    assert splits.stage_sizes(7) == (7,)
    assert splits.stage_sizes(100, 4) == (25, 50, 75, 100)
    assert splits.stage_sizes(101, 2) == (50, 101)
    for total, stages in ((1, None), (5, 3), (10, 0)):
        with pytest.raises(ConfigError):
            splits.stage_sizes(total, stages)


def test_names_and_spans():
    plan = splits.plan_stages("root/dot", 25, test_observations=3)
    assert [part.name for part in plan.parts()] == [
        "dot_stage1_train_7",
        "dot_stage1_validate_3",
        "dot_stage2_train_14",
        "dot_stage2_validate_6",
        "dot_stage3_train_16",
        "dot_stage3_validate_6",
        "dot_test_3",
    ]
    assert spans(plan) == [(0, 7), (7, 10), (0, 14), (14, 20), (0, 16), (16, 22), (22, 25)]
    assert splits.plan_stages("dot", 25).test is None


@given(
    total=st.integers(4, 3000),
    stages=st.one_of(st.none(), st.integers(1, 8)),
    fraction=st.sampled_from([0.5, 0.7, 0.9]),
    share=st.floats(0, 0.5),
)
def test_parts_share_nothing(total, stages, fraction, share):
    test = int(total * share)
    try:
        plan = splits.plan_stages(
            "s", total, num_stages=stages, train_fraction=fraction, test_observations=test
        )
    except ConfigError:
        return  # too small to divide
    for stage in plan.stages:
        assert stage.train.stop == stage.validate.start
        assert stage.train.start == 0
        assert stage.validate.stop <= total - test
    assert plan.stages[-1].validate.stop == total - test
    if test:
        assert (plan.test.start, plan.test.stop) == (total - test, total)


def test_no_frame_is_in_two_parts(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 30)
    plan = splits.plan_stages(session, 30, test_observations=6)
    paths = {part.name: write_part(part, tmp_path / f"{part.name}.json") for part in plan.parts()}
    frames = {
        name: {frame.tobytes() for frame in load_frames(path).frames}
        for name, path in paths.items()
    }
    canvases = {name: len(load_frames(path).windows(3)) for name, path in paths.items()}
    assert (canvases["s_stage1_train_7"], canvases["s_stage1_validate_3"]) == (5, 1)
    for stage in plan.stages:
        assert not frames[stage.train.name] & frames[stage.validate.name]
        for part in (stage.train, stage.validate):
            assert not frames[part.name] & frames[plan.test.name]


@pytest.mark.parametrize(
    "options", [{"train_fraction": 1.0}, {"test_observations": 25}, {"train_fraction": 0.99}]
)
def test_plans_with_an_empty_part(options):
    with pytest.raises(ConfigError):
        splits.plan_stages("s", 25, **options)


def test_halve_loses_no_observation():
    first, second = splits.halve("root/s", 11)
    assert (first.name, second.name) == ("s_part1_5", "s_part2_6")
    assert (first.start, first.stop, second.start, second.stop) == (0, 5, 5, 11)
    assert splits.halve("s", 11, at=1)[0].name == "s_part1_1"
    for at in (0, 11):
        with pytest.raises(ConfigError):
            splits.halve("s", 11, at=at)


def test_count_observations(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 5)
    assert splits.count_observations(session) == 5


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_exported_part_equals_the_index(tmp_path, image_format):
    session = fake_sessions.write_session(
        tmp_path / "s", 8, episodes=2, shard_size=5, image_format=image_format
    )
    part = Part("p", session, 3, 12)
    by_index = load_frames(write_part(part, tmp_path / "p.json"))
    exported = splits.export_part(part, tmp_path / "out")
    assert validate_session(exported).ok
    copied = load_frames(exported)
    assert np.array_equal(copied.frames, by_index.frames)
    assert np.array_equal(copied.action_after, by_index.action_after)
    assert np.array_equal(copied.windows(3), by_index.windows(3))
    assert copied.steps.tolist() == (by_index.steps - 6).tolist()
    meta = read_meta(exported)
    assert (meta["split_from"], meta["split_step_offset"]) == ("s", 6)
    assert meta["episode_boundary"] == [0, 10] and meta["session_name"] == "p"
    assert meta["total_steps"] == copied.steps[-1] + 1
    assert stretch(resolve_part(exported)) == stretch(part)


def test_export_refuses_an_existing_target(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 4)
    part = Part("p", session, 0, 2)
    splits.export_part(part, tmp_path)
    with pytest.raises(SessionError, match="already exists"):
        splits.export_part(part, tmp_path)
    with pytest.raises(SessionError, match="holds 4 observations"):
        splits.export_part(Part("q", session, 0, 5), tmp_path)


def test_export_with_a_missing_frame(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 4)
    (session / "frames" / "frame_000002.png").unlink()
    with pytest.raises(SessionError, match=r"frame_000002.png: frame is missing"):
        splits.export_part(Part("p", session, 0, 4), tmp_path / "out")
    assert not (tmp_path / "out" / "p" / "session_meta.json").exists()


def test_drop_seen(tmp_path):
    training = fake_sessions.write_session(tmp_path / "t", 6, seed=0)
    validation = fake_sessions.write_session(tmp_path / "v", 6, seed=0)
    fake_sessions.edit_event(validation, 7, data={"action": 0})  # was 1: a new transition
    seen = CanvasSource(load_frames(training), GEOMETRY)
    source = CanvasSource(load_frames(validation), GEOMETRY)
    kept = splits.drop_seen(source, seen)
    assert kept.tolist() == [2]  # steps 4, 6, 8: the frame at 6 with the action at 7
    other = fake_sessions.write_session(tmp_path / "o", 6, seed=500)
    assert len(splits.drop_seen(CanvasSource(load_frames(other), GEOMETRY), seen)) == 4
    meta = read_meta(other) | {"action_space": [{"action": 0}, {"action": 1}, {"action": 2}]}
    (other / "session_meta.json").write_text(json.dumps(meta))
    with pytest.raises(SessionError, match="different action spaces"):
        splits.drop_seen(CanvasSource(load_frames(other), GEOMETRY), seen)


if __name__ == "__main__":
    testing.main()
