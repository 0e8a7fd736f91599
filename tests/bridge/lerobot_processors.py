"""LeRobot's own Pi0.5 processors with a word-level tokenizer, built without network.

folder = save_tokenizer(tmp_path / "tokenizer")
reference = build(config, stats, folder)
reference.save(tmp_path / "checkpoint")
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any
from unittest import mock

import numpy as np

WORDS = ("pick", "up", "the", "red", "cube", "and", "place", "it", "on", "plate", "Task", "State")
CAMERAS = ("observation.images.front", "observation.images.wrist")
STATE_DIM, ACTION_DIM = 5, 4


def save_tokenizer(folder: pathlib.Path, *, bos: bool = True) -> pathlib.Path:
    """Writes a word-level tokenizer: single digits, known words, punctuation, spaces dropped."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    symbols = ["<pad>", "<eos>", "<bos>", "<unk>", *WORDS, "Action", *"0123456789:,;-_"]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos>:0 $A:0", special_tokens=[("<bos>", 2)]
        )
    folder.mkdir(parents=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 1000,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def statistics(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Every statistic of the state and the actions; the last state dimension never varies."""
    rng = np.random.default_rng(seed)
    out = {}
    for key, size in (("observation.state", STATE_DIM), ("action", ACTION_DIM)):
        # In ascending order: min, q01, q10, q90, q99, max.
        rows = np.sort(rng.normal(size=(6, size)) * 3, axis=0).astype(np.float32)
        names = ("min", "q01", "q10", "q90", "q99", "max")
        stats = dict(zip(names, rows, strict=True))
        stats["mean"] = rng.normal(size=size).astype(np.float32)
        stats["std"] = rng.uniform(0.1, 2, size).astype(np.float32)
        if key == "observation.state":
            for name in names:
                stats[name][-1] = 0.5
        out[key] = stats
    return out


@dataclasses.dataclass(frozen=True)
class Reference:
    """LeRobot's pipelines."""

    pre: Any
    post: Any

    def save(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes both as `save_pretrained` does."""
        self.pre.save_pretrained(folder)
        self.post.save_pretrained(folder)
        return folder


def build(tokenizer: pathlib.Path, *, stats: Any = None, **settings: Any) -> Reference:
    """`make_pi05_pre_post_processors` with a tokenizer on disk instead of the gated one."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.pi05.configuration_pi05 import PI05Config
    from lerobot.policies.pi05.processor_pi05 import make_pi05_pre_post_processors
    from lerobot.processor import tokenizer_processor
    from transformers import AutoTokenizer

    inputs = {key: PolicyFeature(FeatureType.VISUAL, (3, 48, 64)) for key in CAMERAS}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE_DIM,))
    outputs = {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))}
    names = settings.pop("action_feature_names", None)
    config = PI05Config(device="cpu", input_features=inputs, output_features=outputs, **settings)
    if names is not None:
        config.action_feature_names = names
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    stats = statistics() if stats is None else stats
    tensors = {k: {n: torch.from_numpy(a) for n, a in s.items()} for k, s in stats.items()}
    with mock.patch.object(tokenizer_processor, "AutoTokenizer") as auto:
        auto.from_pretrained.return_value = loaded
        pre, post = make_pi05_pre_post_processors(config, tensors)
    return Reference(pre, post)
