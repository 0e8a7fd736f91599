"""Prompts as tokens, against transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attn_jax.bridge.tokenizer import PromptTokenizer
from attn_jax.core.errors import ConfigError
from tests import testing
from tests.bridge import lerobot_processors as lerobot

testing.require_module("tokenizers", "transformers")
pytestmark = [pytest.mark.bridge, pytest.mark.filterwarnings("ignore")]

PROMPTS = ["Task: pick up the cube, State: 12 200 -1;\nAction: ", "Task: it, State: 7;\nAction: "]


@pytest.fixture
def folder(tmp_path):
    return lerobot.save_tokenizer(tmp_path / "words")


@pytest.mark.parametrize(
    "extra", [{}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}]
)
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_equal_to_transformers(extra, bos, side, tmp_path):
    from transformers import AutoTokenizer

    folder = lerobot.save_tokenizer(tmp_path / "words", bos=bos)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | extra))
    reference = AutoTokenizer.from_pretrained(folder)
    for length in (40, 11, 3):
        expected = reference(
            PROMPTS,
            max_length=length,
            truncation=True,
            padding="max_length",
            padding_side=side,
            return_tensors="np",
        )
        got = PromptTokenizer.load(folder, length, padding_side=side)(PROMPTS)
        np.testing.assert_array_equal(got.ids, expected["input_ids"])
        np.testing.assert_array_equal(got.mask, expected["attention_mask"] == 1)
        assert got.ids.dtype == np.int32 and got.mask.dtype == np.bool_


def test_pieces_and_spans_are_the_prompt(folder):
    tokens = PromptTokenizer.load(folder, 40)(PROMPTS)
    for item, prompt in enumerate(PROMPTS):
        pieces = tokens.pieces[item]
        assert pieces[0] == "<bos>" and len(pieces) == 40
        assert "".join(pieces[1:]) == prompt.rstrip()
        for piece, span, real in zip(
            pieces[1:], tokens.spans[item, 1:], tokens.mask[item, 1:], strict=True
        ):
            assert not real or piece.endswith(prompt[span[0] : span[1]])
        assert not tokens.spans[item][~tokens.mask[item]].any()


def test_a_cut_prompt_says_what_was_lost(folder, caplog):
    PromptTokenizer.load(folder, 6)(["Task: pick up the red cube"])
    (record,) = caplog.records
    message = record.getMessage()
    assert "8 tokens" in message and "cut to 6" in message
    assert message.endswith("lost: 'red cube'")


def test_no_truncation(folder):
    with pytest.raises(ConfigError, match="8 tokens, 6 are allowed"):
        PromptTokenizer.load(folder, 6, truncation=False)(["Task: pick up the red cube"])


def test_other_paddings(folder):
    assert PromptTokenizer.load(folder, 40, padding="longest")(PROMPTS).ids.shape[1] < 40
    with pytest.raises(ConfigError, match="not padded"):
        PromptTokenizer.load(folder, 40, padding=False)(PROMPTS)
    for wrong in ({"padding": "most"}, {"padding_side": "middle"}):
        with pytest.raises(ConfigError, match="cannot be"):
            PromptTokenizer.load(folder, 40, **wrong)


def test_a_lone_file_gets_a_start_token(tmp_path):
    folder = lerobot.save_tokenizer(tmp_path / "words", bos=False)
    (folder / "tokenizer_config.json").unlink()
    tokens = PromptTokenizer.load(folder / "tokenizer.json", 8)(["pick up"])
    assert tokens.ids[0].tolist() == [2, 4, 5, 0, 0, 0, 0, 0]


def test_what_cannot_be_loaded(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        PromptTokenizer.load(tmp_path / "empty", 8)
    (tmp_path / "damaged.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        PromptTokenizer.load(tmp_path / "damaged.json", 8)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="no padding token"):
        PromptTokenizer.load(folder, 8)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError, match="no JSON"):
        PromptTokenizer.load(folder, 8)


def test_a_name_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"--tokenizer"):
        PromptTokenizer.load("nobody/no-such-tokenizer", 8)


def test_pieces_of_ids_are_those_of_the_prompt(tmp_path):
    """As Gemma's: a space is a sign of its own, which the way back to text turns into a space."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, processors

    symbols = ["<pad>", "<eos>", "<bos>", "<unk>", *sorted({*"".join(PROMPTS), "\u2581"} - {" "})]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(
        single="<bos>:0 $A:0", special_tokens=[("<bos>", 2)]
    )
    backend.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = PromptTokenizer.load(tmp_path, 80)
    tokens = tokenizer(PROMPTS)
    assert tokenizer.pieces_of(tokens.ids, tokens.mask) == tokens.pieces
    ids = tokens.ids.copy()
    ids[0, 5] = 999
    assert tokenizer.pieces_of(ids, tokens.mask)[0][4:7] == ("k", "<999>", " ")


def test_pieces_of_ids_where_spaces_are_dropped(folder):
    tokenizer = PromptTokenizer.load(folder, 40)
    tokens = tokenizer(PROMPTS)
    pieces = tokenizer.pieces_of(tokens.ids, tokens.mask)
    assert pieces[1][:5] == ("<bos>", " Task", " :", " it", " ,") and pieces[1][-1] == ""


if __name__ == "__main__":
    testing.main()
