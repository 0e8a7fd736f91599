"""Steps of the processors by hand; their equality with LeRobot is tested in processors_test."""

from __future__ import annotations

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from attn_jax.bridge import processor_steps as steps
from attn_jax.core.errors import CheckpointError, InputError
from tests import testing

STATS = {
    "action": {
        "q01": np.array([-1, 0, 2], np.float32),
        "q99": np.array([1, 10, 2], np.float32),
        "mean": np.array([0, 5, 2], np.float32),
        "std": np.array([1, 2, 0.5], np.float32),
    }
}
FEATURES = {"action": {"type": "ACTION", "shape": [3]}}


def normalise(mode, *, inverse=False, **config):
    config = {"features": FEATURES, "norm_map": {"ACTION": mode}, **config}
    return steps.Normalise.from_config(config, STATS, inverse=inverse)


def test_quantiles_are_not_clipped_and_a_range_of_zero_gets_epsilon():
    out = normalise("QUANTILES")({"action": np.array([[3, -5, 2]], np.float32)})["action"]
    np.testing.assert_array_equal(out, [[3, -2, -1]])
    back = normalise("QUANTILES", inverse=True)({"action": out})["action"]
    np.testing.assert_allclose(back, [[3, -5, 2]], atol=1e-6)


@hypothesis.given(
    st.sampled_from(["QUANTILES", "MEAN_STD", "IDENTITY"]),
    st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=2),
)
def test_there_and_back(mode, values):
    action = np.array([[*values, 2]], np.float32)
    there = normalise(mode)({"action": action})["action"]
    back = normalise(mode, inverse=True)({"action": there})["action"]
    np.testing.assert_allclose(back, action, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("value", "bin_"),
    [(-1, 0), (1, 255), (-1.001, -1), (1.5, 255), (0, 128), (-1 + 1 / 128, 1), (0.9999, 255)],
)
def test_state_bins(value, bin_):
    assert steps.state_bins(np.array([[value]], np.float32)).tolist() == [[bin_]]


def test_prompt():
    text = steps.prompt(" pick_up\nthe cube ", np.array([-1, 0, 255]))
    assert text == "Task: pick up the cube, State: -1 0 255;\nAction: "


def test_relative_actions_leave_named_joints():
    step = steps.RelativeActions(True, ("GRIP",), ("x", "gripper.pos", "z"))
    state = np.array([[1, 2, 3, 99]], np.float32)
    out = step({"observation.state": state, "action": np.ones((1, 2, 3), np.float32)})
    np.testing.assert_array_equal(out["action"], [[[0, 1, -2], [0, 1, -2]]])
    back = steps.AbsoluteActions(True, step)(out)
    np.testing.assert_array_equal(back["action"], np.ones((1, 2, 3)))
    with pytest.raises(InputError, match="Give `state`"):
        steps.AbsoluteActions(True, step)({"action": np.ones((1, 3))})
    with pytest.raises(InputError, match="at least as many"):
        step.shifted(np.ones((1, 3)), np.ones((1, 2)), sign=1)


def test_steps_leave_their_input_alone():
    state = np.ones((1, 3), np.float32)
    values = {"observation.state": state, "task": ["go"], "action": state.copy()}
    before = dict(values)
    for step in (
        steps.Rename({"task": "goal"}),
        steps.AddBatch(),
        steps.RelativeActions(True),
        normalise("QUANTILES"),
        steps.PreparePrompt(),
        steps.Cast.from_name("bfloat16"),
    ):
        step(values)
    assert values == before
    np.testing.assert_array_equal(values["action"], 1)


def test_cast():
    out = steps.Cast.from_name("bfloat16")(
        {"a": np.ones(2, np.float32), "b": np.ones(2, np.int32), "task": ["x"]}
    )
    assert out["a"].dtype == ml_dtypes.bfloat16 and out["b"].dtype == np.int32
    assert steps.Cast.from_name(None)({"a": 1}) == {"a": 1}
    with pytest.raises(CheckpointError, match="float_dtype 'tiny'"):
        steps.Cast.from_name("tiny")


def test_visual_statistics_are_per_channel():
    stats = {"image": {"mean": np.array([0, 0.5, 1], np.float32), "std": np.ones(3, np.float32)}}
    config = {"features": {"image": {"type": "VISUAL"}}, "norm_map": {"VISUAL": "MEAN_STD"}}
    out = steps.Normalise.from_config(config, stats)({"image": np.ones((1, 3, 4, 5), np.float32)})
    np.testing.assert_allclose(out["image"][0, :, 0, 0], [1, 0.5, 0], atol=1e-6)


def test_only_chosen_observations_are_normalised():
    features = {key: {"type": "STATE"} for key in ("a", "b")}
    stats = {key: {"mean": np.ones(1), "std": np.ones(1)} for key in features}
    step = steps.Normalise.from_config(
        {
            "features": features,
            "norm_map": {"STATE": "MEAN_STD"},
            "normalize_observation_keys": ["a"],
        },
        stats,
    )
    out = step({key: np.ones((1, 1)) for key in features})
    assert out["a"] == 0 and out["b"] == 1


def test_errors():
    with pytest.raises(CheckpointError, match="statistic 'min' of action"):
        normalise("MIN_MAX")
    with pytest.raises(CheckpointError, match="unknown feature type 'SMELL'"):
        normalise("IDENTITY", features={"x": {"type": "SMELL"}})
    with pytest.raises(InputError, match=r"action: has 2 dimensions, expected 3"):
        normalise("QUANTILES")({"action": np.ones((1, 2), np.float32)})
    with pytest.raises(InputError, match="2 tasks for 1 states"):
        steps.PreparePrompt()({"observation.state": np.ones((1, 3)), "task": ["a", "b"]})
    with pytest.raises(InputError, match=r"'observation\.state' is missing"):
        steps.PreparePrompt()({"task": ["a"]})


if __name__ == "__main__":
    testing.main()
