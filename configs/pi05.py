"""Pi0.5 on a LeRobotDataset.

    python -m launch.train --config=configs/pi05.py:tabletop --workdir=RUN \
        --config.data.dataset=DATASET

Arguments:
  tabletop: a policy of 2.6 million parameters for two cameras of 64 pixels, to be trained from
  nothing on 2 CPU cores.
  tiny: a model and a run of a few seconds, for tests.

Without an argument the model has the published sizes (3.35 billion parameters) and LeRobot's
optimizer; give --config.init_from=CHECKPOINT to fine-tune. The run ends with a LeRobot folder,
RUN/pretrained_model. `docs/pi05.md` has the figures to expect.
"""

from __future__ import annotations

import dataclasses

import ml_collections

from attn_jax.models.pi05.config import Architecture
from attn_jax.models.pi05.lora import LoraConfig
from attn_jax.train.config import default_distributed_config, default_train_config
from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Configuration of launch.train; `arg` as in the module docstring."""
    args = common.parse_arg(arg, tabletop=False, tiny=False)
    config = ml_collections.ConfigDict()
    config.task = "pi05"
    config.seed = 0
    # A checkpoint to start from: a LeRobot folder, a training run or a folder of launch.bridge. Its
    # sizes and tokenizer are taken, the fields of `model` are not.
    config.init_from = ""
    # Start with patches of this side, pixels, resampled from the checkpoint's; 0 keeps them.
    config.init_patch_size = 0
    config.model = {
        **dataclasses.asdict(Architecture()),
        "chunk_size": 50,
        "n_action_steps": 50,
        "max_action_dim": 32,  # 0 = those of the dataset
        "num_inference_steps": 10,
        "prompt_length": 200,
    }
    config.data = {
        # A LeRobotDataset v3 folder.
        "dataset": "",
        # Its features that are used as cameras, comma-separated; empty = all.
        "cameras": "",
        # The last part of the episodes validates; 0 trains on all of them.
        "validation_share": 0.1,
        # `exact`: quantiles over all frames; `dataset`: those of its meta/stats.json.
        "statistics": "exact",
        "sampling": "epoch",
        # First frames of episodes are repeated until they are this share of all samples.
        "start_share": 0.0,
        # Pictures are decoded once when all of them together need no more than this.
        "cache_gb": 4.0,
        # Folder or name of a tokenizer; empty = that of `init_from`, or one made of the task texts.
        "tokenizer": "",
    }
    config.loss = {
        # LeRobot counts the steps after the end of an episode, where the last action is repeated.
        "count_padding": True,
        # Pairs of noise and time per sample and step; the prefix runs once for all of them.
        "draws": 1,
    }
    # With a weight, actions learn where to look, in these layers and heads of the expert: at what
    # the dataset's `look_at.<camera>` covers (attn_jax/models/pi05/supervision.py), and, in
    # `word_layers` and `word_heads`, at these words of the prompt.
    config.supervision = {
        "weight": 0.0,
        "layers": "all",
        "heads": "all",
        "words": "",
        "word_layers": "0",
        "word_heads": "all",
    }
    config.augment = {"shift": 0, "brightness": 0.0, "contrast": 0.0}
    # LeRobot's freeze_vision_encoder and train_expert_only.
    config.freeze = {"vision_encoder": False, "train_expert_only": False}
    # Rank 0 trains the model itself.
    config.lora = {"rank": 0, "alpha": 16.0, "targets": LoraConfig(1).targets}
    config.remat = True
    config.evaluation = {"samples": 64}
    config.export = {"best": False, "precision": "float32"}
    config.distributed = default_distributed_config()
    config.train = default_train_config()
    config.train.update(
        batch_size=8, steps=30_000, save_every=1000, eval_every=1000, eval_at_start=False
    )
    # LeRobot's preset; warm-up and decay shrink in proportion when the run is shorter.
    config.train.optim.update(
        learning_rate=2.5e-5,
        schedule="lerobot",
        warmup_steps=1000,
        decay_steps=30_000,
        min_ratio=0.1,
        b1=0.9,
        b2=0.95,
        eps=1e-8,
        weight_decay=0.01,
        decay_all=True,
        clip_norm=1.0,
    )
    if args.tabletop or args.tiny:
        config.remat = False
        config.model.update(
            width=128,
            mlp=384,
            expert_width=128,
            expert_mlp=256,
            depth=4,
            heads=4,
            kv_heads=1,
            head_dim=32,
            vocab=0,  # that of the tokenizer
            vision_width=128,
            vision_depth=4,
            vision_heads=4,
            vision_mlp=384,
            image_size=64,
            # Training time goes with the tokens: 16 a camera, 24 of the prompt, 10 a draw.
            patch_size=16,
            chunk_size=10,
            n_action_steps=5,
            prompt_length=32,
        )
        config.loss.draws = 4
        config.augment.update(shift=2, brightness=0.1, contrast=0.1)
        config.train.update(batch_size=16, steps=12_000, eval_every=1000, save_every=500)
        config.train.optim.update(
            learning_rate=1e-3, warmup_steps=300, min_ratio=0.02, ema=0.999, decay_all=False
        )
        config.train.optim.update(schedule="cosine", decay_steps=0)
        config.evaluation.samples = 256
    if args.tiny:
        config.model.update(
            width=32,
            mlp=48,
            expert_width=32,
            expert_mlp=48,
            depth=2,
            head_dim=8,
            vision_width=16,
            vision_depth=1,
            vision_heads=2,
            vision_mlp=32,
            image_size=32,
            patch_size=8,
            chunk_size=4,
            n_action_steps=4,
            max_action_dim=0,
            num_inference_steps=3,
            prompt_length=32,
        )
        config.train.update(batch_size=4, steps=6, eval_every=3, save_every=3, log_every=1)
        config.train.optim.update(warmup_steps=2, micro_batches=2)
        config.evaluation.samples = 4
    return config
