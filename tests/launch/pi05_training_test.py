"""Pi0.5 from a dataset to a policy: batches, one fit, exact continuation, what a run leaves."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from attn_jax.bridge.checkpoint_folder import open_checkpoint
from attn_jax.bridge.tokenizer import Tokens
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.data.lerobot import open_dataset
from attn_jax.data.lerobot_beside import read_notes
from attn_jax.train.checkpoints import load_params
from configs.pi05 import get_config
from launch import pi05_training, tasks, train
from launch.pi05_export import export_lerobot
from launch.pi05_training import build, tokens_of
from robots.tabletop.demonstrations import TabletopConfig
from robots.tabletop.record import Recording, record
from tests import testing
from tests.data import small_dataset as small

testing.require_module("tokenizers")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return small.write_dataset(tmp_path_factory.mktemp("lerobot") / "small", (5, 7, 6))


def tiny(dataset, **changes):
    config = get_config("tiny")
    config.data.dataset = str(dataset)
    config.train.progress = "off"
    config.update_from_flattened_dict(changes)
    return config


def test_a_batch_is_what_the_policy_will_see(dataset):
    built = build(tiny(dataset))
    batch = next(built.data)
    built.data.close()
    assert batch["images"].shape == (4, 2, 32, 32, 3) and batch["images"].dtype == np.uint8
    index = batch["index"]
    shown = small.pictures(18, 32, 1)[index]
    np.testing.assert_array_equal(batch["images"][:, 1], shown)
    assert set(index.tolist()) <= set(range(12))  # the last episode is held out
    assert batch["actions"].shape == (4, 4, small.ACTION_DIM)
    assert batch["action_is_pad"].dtype == np.bool_
    assert batch["tokens"].max() < built.task.config.architecture.vocab
    assert built.metadata["validation_episodes"] == 1 and built.metadata["train_samples"] == 12


def test_pictures_of_another_size_are_resized_as_for_a_prediction(dataset):
    config = tiny(dataset)
    config.model.image_size = 24
    built = build(config)
    batch = next(built.data)
    built.data.close()
    assert batch["images"].shape == (4, 2, 24, 24, 3) and batch["images"].dtype == np.float32
    assert batch["images"].min() >= -1 and batch["images"].max() <= 1


def test_supervised_batches_say_where_to_look(dataset, tmp_path):
    config = TabletopConfig(size=32)
    record(Recording(config, seed=7, episodes=2, masks=False, look_at=True), tmp_path / "d")
    names = {note["prompt"].split()[3] for note in read_notes(tmp_path / "d")}
    words = {"supervision.words": ", ".join(names), "data.start_share": 0.5}
    built = build(tiny(tmp_path / "d", **{"supervision.weight": 0.1}, **words))
    batch = next(built.data)
    built.data.close()
    # "<bos> task: find the red cube": one token is looked at.
    assert batch["look_at_words"].sum(1).tolist() == [1] * 4
    named = batch["tokens"][batch["look_at_words"]]
    before = batch["tokens"][np.roll(batch["look_at_words"], -1, axis=1)]
    assert not set(named.tolist()) & set(before.tolist())
    cells = open_dataset(tmp_path / "d").column("look_at.wrist")[batch["index"]]
    expected = cells.reshape(4, 4, 2, 4, 2).mean((2, 4)).reshape(4, 16)
    assert batch["look_at"].shape == (4, 2, 16)
    np.testing.assert_allclose(batch["look_at"][:, 1], expected, atol=1e-6)
    assert built.task.supervision.weight == 0.1
    [taught] = built.metadata["supervision"]
    assert taught["words"] == ", ".join(names) and taught["layers"] == "all"
    config = tiny(tmp_path / "d", **{"supervision.weight": 0.1, "model.patch_size": 5})
    with pytest.raises(ConfigError, match=r"look_at\.front: 64 cells do not divide into 6 x 6"):
        build(config)
    with pytest.raises(ConfigError, match="no task has the word 'teapot'"):
        build(
            tiny(tmp_path / "d", **{"supervision.weight": 0.1, "supervision.words": "find,teapot"})
        )
    with pytest.raises(InputError, match=r"no feature 'look_at\.front'"):
        build(tiny(dataset, **{"supervision.weight": 0.1}))


def test_tokens_of_words():
    prompt = "pick the red cube, not the cubes"
    pieces = [("", 0, 0), ("pick", 0, 4), (" the", 4, 8), (" red", 8, 12), (" cu", 12, 15)]
    pieces += [("be,", 15, 18), (" cubes", 26, 32)]
    ids = np.zeros((1, 7), np.int32)
    spans = np.array([[span[1:] for span in pieces]], np.int32)
    tokens = Tokens(ids, ids == 0, spans, (prompt,), (tuple(p[0] for p in pieces),))
    assert tokens_of(tokens, ("cube", "red")).tolist() == [[False] * 3 + [True] * 3 + [False]]
    assert not tokens_of(tokens, ("blue",)).any()


def test_what_is_frozen_follows_lerobots_options(dataset):
    for changes, pattern in (
        ({}, ()),
        ({"freeze.vision_encoder": True}, ("^vision/",)),
        ({"lora.rank": 2}, (r"^(?!lora/)",)),
    ):
        built = build(tiny(dataset, **changes))
        built.data.close()
        assert built.frozen == pattern
    built = build(tiny(dataset, **{"freeze.train_expert_only": True}))
    built.data.close()
    assert "^backbone/" in built.frozen


@pytest.mark.slow
def test_a_run_continues_exactly_and_leaves_a_policy(dataset, tmp_path):
    fixed = {"train.optim.decay_steps": 6, "train.eval_every": 0, "train.keep_best": 0}
    whole = train.train(tiny(dataset, **fixed), tmp_path / "whole", tasks.build)
    for steps in (2, 6):
        changes = {**fixed, "train.steps": steps}
        split = train.train(tiny(dataset, **changes), tmp_path / "split", tasks.build)
    jax.tree.map(np.testing.assert_array_equal, split.state.params, whole.state.params)
    jax.tree.map(np.testing.assert_array_equal, split.state.ema, whole.state.ema)
    assert set(split.metrics) == {
        "validation/loss",
        "validation/action_mae",
        "validation/first_action_mae",
    }
    opened = open_checkpoint(tmp_path / "whole")
    exported = open_checkpoint(tmp_path / "whole" / pi05_training.EXPORT)
    assert exported.config.architecture == opened.config.architecture
    jax.tree.map(np.testing.assert_array_equal, exported.params(), opened.params())
    processors = exported.processors()
    assert processors is not None
    state = np.zeros((1, small.STATE_DIM), np.float32)
    values = processors.before({"observation.state": state, "task": [small.TASKS[0]]})
    assert values["observation.language.attention_mask"].sum() > 10


@pytest.mark.slow
def test_corrections_are_trained_on_a_checkpoint_and_merged(dataset, tmp_path):
    short = {"train.steps": 3, "data.validation_share": 0.0}
    train.train(tiny(dataset, **short), tmp_path / "base", tasks.build)
    changes = {"init_from": str(tmp_path / "base"), "lora.rank": 2, "train.optim.ema": 0.0}
    config = tiny(dataset, **short, **changes)
    train.train(config, tmp_path / "lora", tasks.build)
    base = open_checkpoint(tmp_path / "base").params()
    trained = load_params(tmp_path / "lora")
    jax.tree.map(
        np.testing.assert_array_equal, {k: v for k, v in trained.items() if k != "lora"}, base
    )
    final = open_checkpoint(tmp_path / "lora").params()
    query = ("expert", "layer_0", "query", "kernel")
    moved = [tree[query[0]][query[1]][query[2]][query[3]] for tree in (final, base)]
    assert np.abs(np.asarray(moved[0]) - np.asarray(moved[1])).max() > 0
    np.testing.assert_array_equal(final["embedding"], base["embedding"])
    finer = build(tiny(dataset, **{"init_from": str(tmp_path / "base"), "init_patch_size": 4}))
    finer.data.close()
    config = finer.task.config
    assert config.architecture.grid == (8, 8)
    assert jax.tree.map(np.shape, finer.params) == jax.tree.map(
        np.shape, jax.eval_shape(finer.task.init, jax.random.key(0))
    )
    # What the first training taught stays known after the next.
    taught = {"layers": "1", "heads": "all"}
    opened = dataclasses.replace(open_checkpoint(tmp_path / "base"), supervision=(taught,))
    export_lerobot(opened, tmp_path / "taught")
    more = build(tiny(dataset, **{"init_from": str(tmp_path / "taught")}))
    more.data.close()
    assert more.metadata["supervision"] == [taught]


def test_bad_configurations_are_named(dataset):
    with pytest.raises(ConfigError, match=r"data\.dataset is empty"):
        build(get_config("tiny"))
    for changes, message in (
        ({"data.cameras": "depth"}, "depth"),
        ({"data.statistics": "none"}, r"data\.statistics: unknown kind"),
        ({"model.prompt_length": 8}, "model.prompt_length"),
        ({"data.validation_share": 1.0}, "cannot be held out"),
        ({"data.cache_gb": float("nan")}, r"data\.cache_gb is nan"),
    ):
        with pytest.raises((ConfigError, ValueError), match=message):
            build(tiny(dataset, **changes))


if __name__ == "__main__":
    testing.main()
