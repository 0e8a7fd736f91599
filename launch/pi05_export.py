"""A Pi0.5 checkpoint of any kind as a folder that LeRobot loads.

export_lerobot(open_checkpoint("runs/tabletop"), "runs/tabletop/pretrained_model")
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from attn_jax.bridge.checkpoint_folder import SUPERVISION, OpenCheckpoint
from attn_jax.bridge.pi05_write import write_pi05
from attn_jax.bridge.processors import POSTPROCESSOR, PREPROCESSOR, Processors
from attn_jax.bridge.processors_write import read_files, write_files
from attn_jax.bridge.text_head import stored_heads
from attn_jax.core.typing import PathLike


def export_lerobot(
    opened: OpenCheckpoint,
    folder: PathLike,
    *,
    params: Mapping[str, Any] | None = None,
    tokenizer_name: str | None = None,
) -> None:
    """Writes weights, `config.json`, `architecture.json` and the processors with their tokenizer.

    Where attention was supervised, `supervision.json` says how. The output heads are those that the
    checkpoint has; see `write_pi05` for one without.

    Args:
      opened: the checkpoint, in the precision that the file shall have.
      folder: made when it does not exist.
      params: its parameters where they have been read already.
      tokenizer_name: what the tokenizer step names; None keeps it. A tokenizer of our own is named
        `tokenizer`, a folder beside the weights, which LeRobot looks for in its working directory.

    Raises:
      CheckpointError: the checkpoint is damaged.
    """
    folder = pathlib.Path(folder)
    params = opened.params() if params is None else params
    write_pi05(
        folder,
        opened.config,
        params,
        settings=opened.settings,
        image_keys=opened.image_keys,
        heads=stored_heads(opened),
    )
    files = processor_files_of(opened)
    if tokenizer_name is not None and PREPROCESSOR in files:
        pipeline = json.loads(files[PREPROCESSOR])
        for step in pipeline["steps"]:
            if step.get("registry_name") == "tokenizer_processor":
                step["config"]["tokenizer_name"] = tokenizer_name
        files[PREPROCESSOR] = (json.dumps(pipeline, indent=2) + "\n").encode()
    if opened.supervision:
        files[SUPERVISION] = (json.dumps(opened.supervision, indent=2) + "\n").encode()
    write_files(folder, files)


def processor_files_of(opened: OpenCheckpoint) -> dict[str, bytes]:
    """Processor and tokenizer files of a checkpoint, name -> content; empty where it has none."""
    folder = opened.processor_folder
    if not Processors.present(folder):
        return {}
    names = [PREPROCESSOR, POSTPROCESSOR]
    names += [path.name for path in folder.glob("policy_*_processor.safetensors")]
    files = {name: (folder / name).read_bytes() for name in sorted(names)}
    tokenizer = read_files(folder / "tokenizer")
    return files | {f"tokenizer/{name}": data for name, data in tokenizer.items()}
