from __future__ import annotations

import json

import numpy as np
import pytest

from attn_jax.bridge.processors import POSTPROCESSOR, PREPROCESSOR, Processors
from attn_jax.bridge.processors_write import processor_files, read_files, usable, write_files
from attn_jax.bridge.word_tokenizer import word_tokenizer
from tests import testing
from tests.bridge import lerobot_processors as lerobot

testing.require_module("tokenizers")
SHAPES = {key: (3, 48, 64) for key in lerobot.CAMERAS}


def files(stats=None):
    made = processor_files(
        lerobot.statistics() if stats is None else stats,
        image_shapes=SHAPES,
        prompt_length=40,
        tokenizer="tokenizer",
    )
    words = word_tokenizer(["pick up the red cube"])
    return made | {f"tokenizer/{name}": data for name, data in words.items()}


def test_what_is_written_is_read(tmp_path):
    write_files(tmp_path, files())
    assert read_files(tmp_path) == files()
    processors = Processors.load(tmp_path)
    stats = lerobot.statistics()["action"]
    actions = np.stack([stats["q01"], stats["q99"]])[None]
    state = np.zeros((1, lerobot.STATE_DIM), np.float32)
    values = processors.before(
        {"observation.state": state, "action": actions, "task": ["pick up the red cube"]}
    )
    np.testing.assert_allclose(values["action"][0], [[-1] * 4, [1] * 4], atol=1e-6)
    # The tokenizer is found beside the files, wherever the folder stands.
    assert values["observation.language.attention_mask"].sum() == 19
    np.testing.assert_allclose(processors.after(values["action"], values), actions, atol=1e-5)


def test_ranges_are_never_empty():
    stats = {
        "min": [0, 0, 5],
        "max": [1, 9, 5],
        "mean": [0.5, 0.1, 5],
        "std": [1, 1, 0],
        "q01": [0.1, 0, 5],
        "q99": [0.9, 0, 5],
    }
    found = usable({name: np.array(value, np.float32) for name, value in stats.items()})
    np.testing.assert_allclose(found["q01"], [0.1, 0, 4])
    np.testing.assert_allclose(found["q99"], [0.9, 9, 6])


@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore")  # lerobot's own
def test_lerobot_writes_the_same_and_loads_ours(tmp_path):
    testing.require_module("torch", "lerobot")
    import torch
    from lerobot.processor import PolicyProcessorPipeline

    tokenizer = lerobot.save_tokenizer(tmp_path / "words")
    theirs = lerobot.build(tokenizer, tokenizer_max_length=40)
    theirs.save(tmp_path / "theirs")
    write_files(tmp_path / "ours", files())
    for name in (PREPROCESSOR, POSTPROCESSOR):
        ours, expected = (json.loads((tmp_path / x / name).read_text()) for x in ("ours", "theirs"))
        for step in expected["steps"]:
            if "tokenizer_name" in step["config"]:
                step["config"]["tokenizer_name"] = "tokenizer"
        assert ours == expected
    loaded = PolicyProcessorPipeline.from_pretrained(
        tmp_path / "ours",
        config_filename=PREPROCESSOR,
        overrides={"tokenizer_processor": {"tokenizer_name": str(tmp_path / "ours/tokenizer")}},
    )
    state = np.linspace(-1, 1, lerobot.STATE_DIM, dtype=np.float32)[None]
    images = {key: torch.zeros(1, *SHAPES[key]) for key in SHAPES}
    made = loaded({"observation.state": torch.from_numpy(state), **images, "task": ["pick up"]})
    expected = Processors.load(tmp_path / "ours").before(
        {"observation.state": state, "task": ["pick up"]}
    )
    for key in ("observation.language.tokens", "observation.language.attention_mask"):
        np.testing.assert_array_equal(made[key].numpy(), expected[key])


if __name__ == "__main__":
    testing.main()
