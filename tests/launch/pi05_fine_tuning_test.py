"""What each way of fine-tuning changes, and that LeRobot's own folder is where it starts."""

from __future__ import annotations

import dataclasses
import json

import flax.traverse_util
import jax
import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.pi05 import read_pi05
from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.bridge.processors_write import write_files
from attn_jax.bridge.text_head import HEADS, read_text_head
from attn_jax.bridge.word_tokenizer import word_tokenizer
from configs.pi05 import get_config
from launch import tasks, train
from launch.pi05_training import EXPORT, build
from tests import testing
from tests.data import small_dataset
from tests.models.pi05 import lerobot_reference as reference
from tests.models.pi05 import small

testing.require_module("tokenizers")

EXPERT = {"action_in", "action_out", "expert", "time_in", "time_out"}
ALL = EXPERT | {"backbone", "embedding", "projector", "vision"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small_dataset.write_dataset(tmp_path_factory.mktemp("lerobot") / "small", (5, 7))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    write_files(folder, word_tokenizer(small_dataset.TASKS))
    return folder


@pytest.fixture(scope="module")
def start(dataset, words, tmp_path_factory):
    """A checkpoint of the smallest configuration, none of its parameters zero."""
    built = build(configured(dataset, words))
    built.data.close()
    folder = tmp_path_factory.mktemp("start")
    model = built.task.config
    write_pi05(folder, model, small.params(model), state_dim=small_dataset.STATE_DIM)
    return folder


def configured(dataset, words, **changes):
    """Two steps that move whatever they may."""
    config = get_config("tiny")
    config.data.dataset = str(dataset)
    config.model.vocab = 320
    fields = {
        "data.tokenizer": str(words),
        "data.validation_share": 0.0,
        "train.progress": "off",
        "train.steps": 2,
        "train.eval_every": 0,
        "train.optim.warmup_steps": 0,
        "train.optim.micro_batches": 1,
        "train.optim.ema": 0.0,
    }
    config.update_from_flattened_dict({**fields, **changes})
    return config


def moved(before, after):
    """Top-level trees of which at least one parameter has other bits."""
    before, after = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (before, after))
    assert before.keys() == after.keys()
    return {
        name.split("/")[0]
        for name in before
        if not np.array_equal(np.asarray(before[name]), np.asarray(after[name]))
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({}, ALL),
        ({"freeze.vision_encoder": True}, ALL - {"vision"}),
        ({"freeze.train_expert_only": True}, EXPERT),
        ({"lora.rank": 2}, {"lora"}),
    ],
    ids=["all", "vision_encoder", "expert_only", "lora"],
)
def test_exactly_what_an_option_leaves_free_moves(
    dataset, words, start, tmp_path, option, expected
):
    config = configured(dataset, words, init_from=str(start), **option)
    built = build(config)
    built.data.close()
    given = jax.tree.map(np.array, built.params)
    result = train.train(config, tmp_path / "run", tasks.build)
    assert result.step == 2
    assert moved(given, result.state.params) == expected
    # What cannot move has no moments either.
    moments = [x for x in jax.tree.leaves(result.state.opt_state) if np.ndim(x)]
    free = [x for name in expected for x in jax.tree.leaves(given[name])]
    assert sum(x.size for x in moments) == 2 * sum(x.size for x in free)


@pytest.mark.slow
@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore")  # lerobot's own
def test_fine_tuning_starts_from_what_lerobot_saved(dataset, words, tmp_path):
    testing.require_module("torch", "lerobot")
    sizes = dataclasses.replace(reference.SMALL, vocab=320, depth=1, vision_depth=1)
    case = reference.Case(sizes, empty_cameras=0, prompt=32, chunk=4, action_dim=3, steps=3)
    reference.save(reference.make_policy(case), case, tmp_path / "saved")
    (tmp_path / "saved" / "architecture.json").write_text(json.dumps(sizes.to_json()))
    weights = read_pi05(tmp_path / "saved").params
    option = {"freeze.train_expert_only": True, "train.steps": 1}
    config = configured(dataset, words, init_from=str(tmp_path / "saved"), **option)
    built = build(config)
    built.data.close()
    assert moved(weights, built.params) == set()
    result = train.train(config, tmp_path / "run", tasks.build)
    assert moved(weights, result.state.params) == EXPERT
    # AdamW's first step is of the size of the learning rate.
    rate = config.train.optim.learning_rate
    change = jax.tree.map(lambda a, b: np.abs(a - b).max(), weights, result.state.params)
    assert 0 < max(jax.tree.leaves(change)) < 1.1 * rate
    saved, run = open_checkpoint(tmp_path / "saved"), open_checkpoint(tmp_path / "run")
    head = read_text_head(saved, weights)
    assert not np.array_equal(head, weights["embedding"]) and (tmp_path / "run" / HEADS).exists()
    for opened in (run, open_checkpoint(tmp_path / "run" / EXPORT)):
        np.testing.assert_array_equal(read_text_head(opened, opened.params()), head)


if __name__ == "__main__":
    testing.main()
