from __future__ import annotations

import json

import pytest

from attn_jax.bridge.processor_steps import prompt
from attn_jax.bridge.processors_write import write_files
from attn_jax.bridge.tokenizer import PromptTokenizer
from attn_jax.bridge.word_tokenizer import vocabulary_size, word_tokenizer
from tests import testing

testing.require_module("tokenizers")
TASKS = ["pick up the red cube", "unplug the grey_plug"]
PROMPT = prompt("Pick up the red cube", [-1, 255, 17])


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path, word_tokenizer(TASKS))
    return tmp_path


def test_every_word_and_number_is_one_token(folder):
    tokens = PromptTokenizer.load(folder, 24)([PROMPT])
    text = [piece.strip() for piece in tokens.pieces[0] if piece]
    assert text[:8] == ["<bos>", "Task", ":", "Pick", "up", "the", "red", "cube"]
    assert text[8:] == [",", "State", ":", "-1", "255", "17", ";", "Action", ":"]
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    ids = tokens.ids[0]
    assert ids[3] == vocabulary["pick"] and ids[11] == vocabulary["-1"]
    assert vocabulary["<unk>"] not in ids and ids[-1] == vocabulary["<pad>"] == 0
    assert vocabulary_size(word_tokenizer(TASKS)) == len(vocabulary)


def test_unknown_words_are_marked_and_order_does_not_matter(folder):
    assert PromptTokenizer.load(folder, 24)([prompt("pick up the violin", [])]).ids[0, 6] == 3
    assert word_tokenizer(TASKS) == word_tokenizer(TASKS[::-1] + TASKS)


@pytest.mark.bridge
@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_transformers_gives_the_same_ids(folder):
    testing.require_module("transformers")
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    made = theirs([PROMPT], padding="max_length", max_length=24, padding_side="right")
    ours = PromptTokenizer.load(folder, 24)([PROMPT])
    assert made["input_ids"][0] == ours.ids[0].tolist()
    assert made["attention_mask"][0] == ours.mask[0].astype(int).tolist()


if __name__ == "__main__":
    testing.main()
