from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.errors import LayoutError
from attn_jax.core.layout import TokenLayout
from attn_jax.models.pi05 import Architecture, Pi05Config
from attn_jax.models.pi05.layout import layouts
from tests import testing

CONFIG = Pi05Config(
    Architecture(image_size=28), ("base", "wrist"), 7, chunk_size=3, n_action_steps=3
)


def made(pieces=None, padding=2, image_mask=(True, True)):
    count = 25 if pieces is None else len(pieces)
    tokens = np.concatenate([[2], np.arange(10, 9 + count), np.zeros(padding, int)])
    mask = np.arange(count + padding) < count
    padded = None if pieces is None else [*pieces, *["<pad>"] * padding]
    return layouts(CONFIG, CONFIG.cameras, np.asarray(image_mask), tokens, mask, pieces=padded)


def test_groups_cover_the_prefix_in_order():
    prefix = made()["prefix"]
    assert prefix.names == ("image/base", "image/wrist", "bos", "text", "pad")
    assert prefix.length == 8 + 25 + 2
    assert prefix.group("image/wrist").grid == (2, 2)
    assert prefix.group("image/wrist").indices == (4, 5, 6, 7)
    assert prefix.group("image/wrist").box == (0, 0, 28, 28)
    assert prefix.group("bos").indices == (8,)
    assert prefix.group("pad").indices == (33, 34) and not prefix.group("pad").valid


def test_actions_follow_as_keys_and_are_the_only_queries():
    suffix = made()["suffix"]
    assert suffix.group("action").indices == (35, 36, 37)
    assert suffix.queries == (35, 36, 37) and suffix.keys is None
    maps = np.zeros((2, 3, 38))
    assert suffix.select(maps, query="action", key="image/base").shape == (2, 3, 2, 2)


def test_a_dummy_camera_is_invalid():
    prefix = made(image_mask=(True, False))["prefix"]
    assert not prefix.group("image/wrist").valid
    assert not set(prefix.tokens("valid")) & {4, 5, 6, 7, 33, 34}


def _text(layout: TokenLayout, name: str) -> str:
    return "".join(layout.group(name).labels).replace("▁", " ")


def test_pieces_tell_state_from_text_and_name_words():
    task = ["<bos>", "Task", ":", "▁pick", "▁the", "▁cu", "be", "▁the", ","]
    state = ["▁State", ":", "▁", "1", "2", "▁", "-1", "▁", "2", "5", "5", ";"]
    pieces = [*task, *state]
    prefix = made([*pieces, "\n", "Action", ":", "▁"])["prefix"]
    assert _text(prefix, "state") == "12 -1 255"
    assert _text(prefix, "state/0") == "12"
    assert _text(prefix, "state/1").strip() == "-1"
    assert _text(prefix, "state/2").strip() == "255"
    assert _text(prefix, "text/word/cube") == " cube"
    assert _text(prefix, "text/word/the") == _text(prefix, "text/word/the#2") == " the"
    assert prefix.group("text/word/the").indices < prefix.group("text/word/the#2").indices
    assert "Action" in _text(prefix, "text") and "12" not in _text(prefix, "text")
    assert len(prefix.group("prompt").indices) == len(pieces) + 4


def test_a_tokenizer_of_whole_words_works_too():
    pieces = ["Task", ":", "push", "button", ",", "State", ":", "0", "128", ";", "Action", ":"]
    prefix = made(pieces, padding=0)["prefix"]
    assert prefix.group("state").labels == ("0", "128")
    assert prefix.group("state/1").labels == ("128",)
    assert prefix.group("text/word/button").labels == ("button",)
    assert "pad" not in prefix.names


def test_ids_of_the_real_tokens():
    prefix = made()["prefix"]  # 2, 10, 11, ..., 33, then padding
    assert prefix.group("bos").ids == (2,)
    assert prefix.group("text").ids == tuple(range(10, 34)) and prefix.group("pad").ids == ()


def test_the_state_is_the_last_one_and_may_be_written_small():
    pieces = ["<bos>", "task", ":", "state", ":", "5", ",", "state", ":", "0", "128", ";"]
    assert made(pieces)["prefix"].group("state").labels == ("0", "128")


def test_a_prompt_without_state_is_text():
    prefix = made(["<bos>", "▁pick", "▁up"], padding=0)["prefix"]
    assert "state" not in prefix.names
    assert prefix.group("text").labels == ("▁pick", "▁up")


def test_layouts_survive_json():
    suffix = made(["<bos>", "▁State", ":", "▁", "7"])["suffix"]
    assert TokenLayout.from_json(suffix.to_json()) == suffix


def test_lengths_that_contradict_each_other_are_refused():
    with pytest.raises(LayoutError, match="2 cameras with a mask"):
        layouts(CONFIG, CONFIG.cameras, np.ones(3, bool), np.zeros(4, int), np.ones(4, bool))
    with pytest.raises(LayoutError, match="1 pieces for 4 tokens"):
        layouts(
            CONFIG,
            CONFIG.cameras,
            np.ones(2, bool),
            np.zeros(4, int),
            np.ones(4, bool),
            pieces=["a"],
        )


if __name__ == "__main__":
    testing.main()
