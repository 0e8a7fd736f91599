"""Converts or checks foreign weights, and prints what became of every tensor.

    python -m launch.bridge --source=canvas --file=best_model_auto_x.pth [--workdir=RUN] [--json]
    python -m launch.bridge --source=vgg16 --file=vgg16.pth --out=vgg16.safetensors
    python -m launch.bridge --source=pi05 --file=LEROBOT_FOLDER [--to=orbax --workdir=OUT]
    python -m launch.bridge --source=pi05 --file=RUN --to=lerobot --workdir=OUT

`canvas`: a checkpoint of the original canvas world model. With --workdir a checkpoint that
launch.evaluate reads is written to RUN, beside `bridge.json` (the account); without, the file is
only checked.
`vgg16`: torchvision's VGG16 as the file of the perceptual loss, `--config.loss.vgg_weights`.
`pi05`: a Pi0.5 checkpoint of any kind, see `attn_jax.bridge.checkpoint_folder`. Without --to it is
only checked; `orbax` writes a checkpoint with its configuration, processors and text heads,
`lerobot` a folder that LeRobot loads. --dtype changes the arithmetic and with it the dtype of the
parameters.

Exit code 2 when a tensor is missing, unexpected or mis-shaped; then nothing is written.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags, logging

from attn_jax.bridge.canvas_pth import CanvasCheckpoint, read_canvas_pth
from attn_jax.bridge.checkpoint_folder import FAMILY, PROCESSORS, OpenCheckpoint, open_checkpoint
from attn_jax.bridge.keymap import Report
from attn_jax.bridge.processors_write import write_files
from attn_jax.bridge.text_head import keep_heads
from attn_jax.bridge.vgg_pth import convert_vgg
from attn_jax.core.errors import ConfigError
from attn_jax.models.canvas.model import layouts
from attn_jax.train.checkpoints import Checkpoints
from attn_jax.train.step import TrainState
from launch import app
from launch.pi05_export import export_lerobot, processor_files_of

SOURCE = flags.DEFINE_enum("source", None, ["canvas", "vgg16", "pi05"], "Kind of file.")
FILE = flags.DEFINE_string("file", None, "The foreign file or folder.")
TO = flags.DEFINE_enum(
    "to", None, ["orbax", "lerobot"], "What a Pi0.5 checkpoint becomes.", allow_override=True
)
STEP = flags.DEFINE_string(
    "step", "latest", "Checkpoint of a run: a step, latest or best.", allow_override=True
)
EMA = flags.DEFINE_bool(
    "ema", True, "Take the averaged parameters of a run that kept them.", allow_override=True
)
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16_lerobot", "bfloat16_openpi"],
    "Arithmetic of the Pi0.5 model that is written; without, what the checkpoint says.",
    allow_override=True,
)
TOKENIZER_NAME = flags.DEFINE_string(
    "tokenizer_name", None, "What the tokenizer step of a written LeRobot folder names."
)
OUT = flags.DEFINE_string("out", None, "Where the converted VGG16 weights go.")
HEAD_DIM = flags.DEFINE_integer(
    "head_dim", 64, "Features per attention head of a canvas model.", lower_bound=1
)


def main() -> dict[str, Any]:
    """Converts the file; returns what --json prints."""
    for flag in (SOURCE, FILE):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is required")
    if SOURCE.value == "vgg16":
        if not OUT.value:
            raise ConfigError("--source=vgg16 needs --out", fix="Name a .safetensors file")
        report = convert_vgg(FILE.value, OUT.value)
        logging.info("wrote %s", OUT.value)
        return _show(report.text(), {"source": "vgg16", **report.to_json()})
    workdir = pathlib.Path(app.WORKDIR.value) if app.WORKDIR.value else None
    if SOURCE.value == "pi05":
        return convert_pi05(workdir)
    if workdir is not None and (workdir / "checkpoints").exists():
        raise ConfigError("holds checkpoints already", where=workdir, fix="Name another --workdir")
    found = read_canvas_pth(FILE.value, head_dim=HEAD_DIM.value)
    result = {
        "source": "canvas",
        "model": found.config.to_json(),
        "facts": dict(found.facts),
        **found.report.to_json(),
    }
    found.report.require(FILE.value)
    if workdir is not None:
        write_checkpoint(found, workdir, pathlib.Path(FILE.value).name)
        app.write_json(workdir / "bridge.json", result)
        app.write_json(workdir / "run.json", app.provenance(None))
        logging.info("wrote %s", workdir)
    return _show(found.report.text(), result)


def convert_pi05(workdir: pathlib.Path | None) -> dict[str, Any]:
    """Checks or converts a Pi0.5 checkpoint as the flags say; nothing is written when it fails."""
    if (TO.value is None) != (workdir is None):
        raise ConfigError("--to and --workdir come together", fix="Or give neither, to check only")
    if workdir is not None and workdir.exists() and any(workdir.iterdir()):
        raise ConfigError("is not empty", where=workdir, fix="Name another --workdir")
    step = int(STEP.value) if STEP.value.isdigit() else STEP.value
    opened = open_checkpoint(FILE.value, precision=DTYPE.value, step=step, ema=EMA.value)
    params, report = opened.read()
    text, account = _account(params, report)
    result = {"source": "pi05", "kind": opened.kind, "model": opened.config.to_json(), **account}
    if TO.value == "orbax":
        assert workdir is not None
        write_run(opened, params, workdir)
        app.write_json(workdir / "bridge.json", result)
        app.write_json(workdir / "run.json", app.provenance(None))
    elif TO.value == "lerobot":
        assert workdir is not None
        export_lerobot(opened, workdir, params=params, tokenizer_name=TOKENIZER_NAME.value)
    if workdir is not None:
        logging.info("wrote %s", workdir)
    return _show(text, result)


def _account(params: dict[str, Any], report: Report | None) -> tuple[str, dict[str, Any]]:
    """Text and JSON of what became of every tensor; a run of our own was checked by name."""
    if report is not None:
        return report.text(), report.to_json()
    count = len(jax.tree.leaves(params))
    text = f"loaded: {count}\nmissing: 0\nunexpected: 0\nmis-shaped: 0\nignored: 0"
    return text, {"complete": True, "tensors": count}


def write_run(opened: OpenCheckpoint, params: dict[str, Any], workdir: pathlib.Path) -> None:
    """Writes parameters as step 0 of a run with all that is beside them; `params` is used up.

    Args:
      opened: where they come from.
      params: complete, in the dtypes of `opened.config`.
      workdir: its `checkpoints`, `processors` and text heads are written.

    Raises:
      CheckpointError: the text heads do not fit the model; then nothing is written.
    """
    keep_heads(opened, workdir)
    metadata = {
        "config": {"task": FAMILY, "imported_from": opened.folder.name},
        "family": FAMILY,
        "model": opened.config.to_json(),
        "settings": app.jsonable(dict(opened.settings)),
        "lora": None,
        "supervision": [*map(dict, opened.supervision)],
    }
    if files := processor_files_of(opened):
        write_files(workdir / PROCESSORS, files)
    _save_step_0(workdir, params, metadata)


def _show(text: str, result: dict[str, Any]) -> dict[str, Any]:
    print(text)
    return result


def write_checkpoint(found: CanvasCheckpoint, workdir: pathlib.Path, name: str) -> None:
    """Stores imported parameters as step 0, for evaluation; there is no optimizer's state.

    Args:
      found: a complete import.
      workdir: its `checkpoints` folder is written.
      name: of the foreign file, for the metadata.
    """
    metadata = {
        "config": {"task": "canvas", "imported_from": name},
        "family": "canvas",
        "model": found.config.to_json(),
        "layouts": {key: layout.to_json() for key, layout in layouts(found.config).items()},
        "imported": app.jsonable(dict(found.facts)),
    }
    _save_step_0(workdir, found.params, metadata)


def _save_step_0(workdir: pathlib.Path, params: Any, metadata: dict[str, Any]) -> None:
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        step=zero,
        params=onto_device(params),
        ema=None,
        opt_state=(),
        seed_key=jax.random.key_data(jax.random.key(0)),
        skipped=zero,
        consecutive_skips=zero,
    )
    with Checkpoints(workdir / "checkpoints", metadata=metadata) as checkpoints:
        checkpoints.save(0, state)


def onto_device(tree: dict[str, Any]) -> dict[str, Any]:
    """Moves a tree leaf by leaf and in place, so that it is never held twice."""
    for name in list(tree):
        leaf = tree[name]
        tree[name] = onto_device(leaf) if isinstance(leaf, dict) else jax.device_put(leaf)
    return tree


if __name__ == "__main__":
    app.run(main)
