"""Canvas world model.

    python -m launch.train --config=configs/canvas.py:size=64 --workdir=RUN \
        --config.data.sessions=SESSION

Arguments:
  size: side of the frames of the session, pixels (default 224).
  original: sizes, positions, loss and schedule of the system this family reimplements, for
  comparison.
  tiny: a model and a run of a few seconds, for tests.

Expect, for size=64 on 2 CPU cores: the dot within 3 px on over 95 % of held-out canvases within two
minutes. `docs/canvas.md` has the measured learning curves.
"""

from __future__ import annotations

import ml_collections

from attn_jax.train.config import default_distributed_config, default_train_config
from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Configuration of launch.train; `arg` as in the module docstring."""
    args = common.parse_arg(arg, size=224, original=False, tiny=False)
    config = ml_collections.ConfigDict()
    config.task = "canvas"
    config.seed = 0
    config.model = {
        "architecture": "encoder_decoder",
        "history": 3,
        "separator": 16,
        "patch": 16,
        "dim": 128,
        "encoder_depth": 3,
        "decoder_dim": 128,
        "decoder_depth": 3,
        "head_dim": 32,
        "mlp_ratio": 4.0,
        # Rotary beats both fixed tables by far, see docs/decisions/canvas-defaults.md.
        "positions": "rotary",
        "decode": "last_layer",
        "exact_gelu": True,
    }
    config.loss = {
        # alpha 1 is plain mean squared error; the focal term rewards grey.
        "alpha": 1.0,
        "beta": 5.0,
        # Pixels of the dot are 2 % of a 64-pixel frame, 0.16 % of a 224-pixel one; with this weight
        # they carry about a tenth of the loss at every size.
        "weighting": "nonblack",
        "foreground": 0.1 / 81 * args.size**2,
        "mask_ratio_min": 1.0,
        "mask_ratio_max": 1.0,
        # VGG16 perceptual loss: 0 is off; `vgg_weights` names a local file.
        "perceptual": 0.0,
        "vgg_weights": "",
    }
    config.data = {
        # Session folders or split index files, comma-separated.
        "sessions": "",
        # The same for validation; empty holds out the last part of every session by index.
        "validation": "",
        "validation_share": 0.15,
        "sampling": "epoch",
        "temperature": 0.5,
        "refresh_every": 50,
        "augment": "",
    }
    config.distributed = default_distributed_config()
    config.train = default_train_config()
    config.train.batch_size = 16
    config.train.optim.learning_rate = 1e-3
    config.train.optim.schedule = "cosine"
    config.train.optim.warmup_steps = 50
    config.train.optim.b2 = 0.95
    config.train.optim.ema = 0.99
    config.train.steps = 1500
    config.train.optim.decay_steps = 0  # the length of the run
    config.train.eval_every = 250
    config.train.save_every = 500
    config.train.log_every = 25
    if args.original:
        config.model.update(
            dim=256,
            encoder_depth=5,
            decoder_dim=256,
            decoder_depth=5,
            head_dim=64,
            positions="compat",
            decode="full",
        )
        config.loss.update(alpha=0.1, weighting="none", foreground=1.0)
        config.data.update(sampling="loss_weighted")
        config.train.batch_size = 8
        config.train.optim.update(
            learning_rate=1e-4,
            schedule="constant",
            warmup_steps=0,
            b2=0.999,
            ema=0.0,
        )
    if args.tiny:
        config.model.update(dim=32, encoder_depth=1, decoder_dim=32, decoder_depth=2, head_dim=16)
        config.train.batch_size = 4
        config.train.steps = 6
        config.train.optim.warmup_steps = 2
        config.train.eval_every = 3
        config.train.save_every = 3
        config.train.log_every = 1
    return config
