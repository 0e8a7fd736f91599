"""The processors of a checkpoint against LeRobot's own pipelines."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attn_jax.bridge import processor_steps as steps
from attn_jax.bridge.processors import KNOWN_STEPS, POSTPROCESSOR, PREPROCESSOR, Processors
from attn_jax.core.errors import CheckpointError, ConfigError, InputError
from tests import testing
from tests.bridge import lerobot_processors as lerobot

testing.require_module("lerobot", "torch")
# lerobot's own imports warn, of packages that it uses and of formats that it will leave.
pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]

TASKS = ["  pick up the_red cube\nand place it on the plate ", "place the cube"]
NAMES = ["x.pos", "y.pos", "Gripper.pos", "z.pos"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return lerobot.save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "words")


def observation(seed=0, batch=2):
    rng = np.random.default_rng(seed)
    values = {
        "observation.state": (rng.normal(size=(batch, lerobot.STATE_DIM)) * 4).astype(np.float32),
        "action": rng.normal(size=(batch, 6, lerobot.ACTION_DIM)).astype(np.float32),
    }
    for key in lerobot.CAMERAS:
        values[key] = rng.random((batch, 3, 48, 64), np.float32)
    return values


def as_torch(values):
    import torch

    return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}


SETTINGS = {
    "default": {},
    "relative": {
        "use_relative_actions": True,
        "action_feature_names": NAMES,
        "relative_exclude_joints": ["gripper"],
    },
    "mean and deviation": {
        "normalization_mapping": {"STATE": "MEAN_STD", "ACTION": "MEAN_STD", "VISUAL": "IDENTITY"}
    },
    "range": {
        "normalization_mapping": {"STATE": "MIN_MAX", "ACTION": "MIN_MAX", "VISUAL": "IDENTITY"}
    },
    "inner quantiles": {
        "normalization_mapping": {"STATE": "QUANTILE10", "ACTION": "QUANTILE10"},
        "tokenizer_max_length": 90,
    },
    "identity": {"normalization_mapping": {"STATE": "IDENTITY", "ACTION": "IDENTITY"}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_equal_to_lerobot(name, tokenizer, tmp_path):
    settings = dict(SETTINGS[name])
    if "normalization_mapping" in settings:
        from lerobot.configs import NormalizationMode

        settings["normalization_mapping"] = {
            kind: NormalizationMode(mode)
            for kind, mode in settings["normalization_mapping"].items()
        }
    reference = lerobot.build(tokenizer, **settings)
    ours = Processors.load(reference.save(tmp_path), tokenizer)
    values = observation()
    expected = reference.pre(as_torch({**values, "task": list(TASKS)}))
    got = ours.before({**values, "task": list(TASKS)})
    assert got["task"] == expected["task"]
    assert list(got["prompt_tokens"].prompts) == expected["task"]
    np.testing.assert_array_equal(got[steps.TOKENS], expected[steps.TOKENS].numpy())
    np.testing.assert_array_equal(got[steps.TOKEN_MASK], expected[steps.TOKEN_MASK].numpy())
    for key in ("observation.state", "action", *lerobot.CAMERAS):
        assert got[key].dtype == np.float32
        # The dimension without extent is divided by 1e-8, so that its values are huge.
        np.testing.assert_allclose(got[key], expected[key].numpy(), rtol=1e-6, atol=1e-6)
    chunk = np.random.default_rng(1).normal(size=(2, 6, lerobot.ACTION_DIM)).astype(np.float32)
    back = reference.post(as_torch({"a": chunk})["a"]).numpy()
    np.testing.assert_allclose(ours.after(chunk, got), back, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        ours.after(got["action"], got), values["action"], rtol=1e-6, atol=2e-6
    )


def test_single_items_get_a_batch_axis(tokenizer, tmp_path):
    reference = lerobot.build(tokenizer)
    ours = Processors.load(reference.save(tmp_path), tokenizer)
    values = {key: value[0] for key, value in observation().items()}
    values["action"] = values["action"][0]
    expected = reference.pre(as_torch({**values, "task": TASKS[1]}))
    got = ours.before({**values, "task": TASKS[1]})
    for key in values:
        assert got[key].shape == tuple(expected[key].shape), key
    np.testing.assert_array_equal(got[steps.TOKENS], expected[steps.TOKENS].numpy())


def test_what_is_tokenised_already_needs_neither_tokenizer_nor_task(tokenizer, tmp_path):
    reference = lerobot.build(tokenizer)
    ours = Processors.load(reference.save(tmp_path), tmp_path / "no tokenizer here")
    tokens = np.ones((2, 7), np.int32)
    values = {**observation(), steps.TOKENS: tokens, steps.TOKEN_MASK: tokens > 0}
    out = ours.before(values)
    assert out[steps.TOKENS] is tokens
    np.testing.assert_array_equal(out[steps.REFERENCE_STATE], values["observation.state"])


def test_state_file_of_another_number_is_found_by_its_name(tokenizer, tmp_path):
    reference = lerobot.build(tokenizer)
    folder = reference.save(tmp_path)
    expected = Processors.load(folder, tokenizer).before({**observation(), "task": TASKS})
    data = json.loads((folder / PREPROCESSOR).read_text())
    step = next(s for s in data["steps"] if s["registry_name"] == "normalizer_processor")
    (folder / step["state_file"]).rename(folder / "policy_preprocessor_step_2_old.safetensors")
    step["state_file"] = "policy_preprocessor_step_2_old.safetensors"
    # Older files have no relative step either.
    data["steps"] = [s for s in data["steps"] if s["registry_name"] != "relative_actions_processor"]
    (folder / PREPROCESSOR).write_text(json.dumps(data))
    got = Processors.load(folder, tokenizer).before({**observation(), "task": TASKS})
    np.testing.assert_array_equal(got["observation.state"], expected["observation.state"])
    (folder / step["state_file"]).unlink()
    with pytest.raises(CheckpointError, match=r"state file.*missing"):
        Processors.load(folder, tokenizer)


def change(folder, name, edit):
    data = json.loads((folder / name).read_text())
    edit(data["steps"])
    (folder / name).write_text(json.dumps(data))


def test_errors_name_the_step(tokenizer, tmp_path):
    folder = lerobot.build(tokenizer).save(tmp_path)
    original = (folder / PREPROCESSOR).read_text()

    change(folder, PREPROCESSOR, lambda s: s.append({"registry_name": "blur", "config": {}}))
    with pytest.raises(CheckpointError, match="unknown processor step 'blur'") as caught:
        Processors.load(folder)
    assert all(name in str(caught.value) for name in KNOWN_STEPS)

    (folder / PREPROCESSOR).write_text(original)
    change(folder, PREPROCESSOR, lambda s: s[3]["config"].update(clip=True))
    with pytest.raises(CheckpointError, match=r"step 3.*unknown setting 'clip'"):
        Processors.load(folder)

    (folder / PREPROCESSOR).write_text(original)
    change(folder, PREPROCESSOR, lambda s: s[3]["config"]["norm_map"].update(STATE="LOG"))
    with pytest.raises(CheckpointError, match="unknown normalisation 'LOG'"):
        Processors.load(folder)

    (folder / PREPROCESSOR).write_text(original)
    state_file = json.loads(original)["steps"][3]["state_file"]
    statistics = (folder / state_file).read_bytes()
    (folder / state_file).write_bytes(b"no statistics")
    with pytest.raises(CheckpointError, match="safetensors"):
        Processors.load(folder)
    (folder / state_file).write_bytes(statistics)

    (folder / PREPROCESSOR).write_text("[]")
    with pytest.raises(CheckpointError, match="no processor"):
        Processors.load(folder)

    (folder / PREPROCESSOR).write_text(original)
    (folder / POSTPROCESSOR).unlink()
    assert Processors.present(folder)
    with pytest.raises(CheckpointError, match="policy_postprocessor"):
        Processors.load(folder)


def test_the_tokenizer_of_the_file_is_asked_for_when_it_is_needed(tokenizer, tmp_path):
    folder = lerobot.build(tokenizer).save(tmp_path)
    change(folder, PREPROCESSOR, lambda s: s[5]["config"].update(tokenizer_name=None))
    processors = Processors.load(folder)
    with pytest.raises(ConfigError, match="--tokenizer"):
        processors.before({**observation(), "task": TASKS})
    with pytest.raises(InputError, match="'task' is missing"):
        processors.before(observation())


if __name__ == "__main__":
    testing.main()
