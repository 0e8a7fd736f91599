"""Observations as the model's input."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from attn_jax.bridge import processor_steps as names
from attn_jax.core.errors import InputError
from attn_jax.policies.observations import describe, layouts_of, prepare
from tests import testing
from tests.policies import checkpoints

testing.require_module("tokenizers")
pytestmark = [pytest.mark.bridge]


@pytest.fixture(scope="module")
def description(tmp_path_factory):
    return describe(checkpoints.write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"))


def test_bytes_are_the_floats_they_mean(description):
    raw = checkpoints.observation()
    floats = {
        key: np.moveaxis(value.astype(np.float32) / 255, 3, 1) if "images" in key else value
        for key, value in raw.items()
    }
    first, second = prepare(description, raw), prepare(description, floats)
    assert first.cameras == second.cameras == ("front", "wrist", "spare")
    np.testing.assert_allclose(first.inputs.images, second.inputs.images, atol=1e-6)
    assert first.inputs.images.dtype == np.float32
    np.testing.assert_array_equal(first.inputs.image_mask, [[True, True, False]] * 2)


def test_the_state_is_in_the_prompt(description):
    raw = checkpoints.observation()
    prepared = prepare(description, raw)
    bins = names.state_bins(raw["observation.state"])[0]
    layout = layouts_of(description.config, prepared, 0)["prefix"]
    for i, number in enumerate(bins):
        assert "".join(layout.group(f"state/{i}").labels).strip() == str(number)


def given_tokens(description, raw):
    """The observation with the ids of its prompts instead of task and state."""
    prepared = prepare(description, raw)
    tokens = {
        names.TOKENS: prepared.inputs.tokens,
        names.TOKEN_MASK: prepared.inputs.token_mask,
    }
    return prepared, {k: v for k, v in raw.items() if k != "task"} | tokens


def test_words_of_given_tokens(description):
    expected, raw = given_tokens(description, checkpoints.observation())
    prepared = prepare(description, raw)
    for item, word in ((0, "cube"), (1, "plate")):
        old, new = (layouts_of(description.config, p, item)["suffix"] for p in (expected, prepared))
        for name in (f"text/word/{word}", "text", "state", "prompt"):
            assert new.group(name).indices == old.group(name).indices
        assert new.group("text").ids == old.group("text").ids != ()


def test_given_tokens_need_no_tokenizer(description, tmp_path):
    """The name of a tokenizer that is not there is not even looked up."""
    shutil.copytree(description.folder, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "tokenizer")
    file = tmp_path / "copy" / "policy_preprocessor.json"
    text = file.read_text().replace(str(description.folder / "tokenizer"), "nobody/knows")
    file.write_text(text)
    _, raw = given_tokens(description, checkpoints.observation())
    prepared = prepare(describe(tmp_path / "copy"), raw)
    assert prepared.pieces is None
    layout = layouts_of(description.config, prepared, 0)["suffix"]
    assert "state" not in layout.names and layout.group("text").ids
    named = describe(tmp_path / "copy", tokenizer=description.folder / "tokenizer")
    assert prepare(named, raw).pieces is not None


def test_batches_that_disagree(description):
    raw = checkpoints.observation()
    with pytest.raises(InputError, match="1 prompts for 2 pictures"):
        prepare(description, raw | {"task": raw["task"][:1], names.STATE: raw[names.STATE][:1]})


if __name__ == "__main__":
    testing.main()
