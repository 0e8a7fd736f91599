"""A Pi0.5 checkpoint of any kind, opened by one function.

Three kinds of folders hold one: what LeRobot saved (`config.json`, `model.safetensors`, processors
beside them), the --workdir of a training run, and what `launch.bridge --to=orbax` wrote. The last
two have Orbax checkpoints in `checkpoints/`, whose metadata describe the model, and the processors
in `processors/`. Opening reads descriptions only; weights are read by `params`.

    checkpoint = open_checkpoint("runs/tabletop")             # or a LeRobot folder
    processors = checkpoint.processors()
    sample(checkpoint.config, checkpoint.params(), inputs, noise)
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from attn_jax.bridge import safetensors_reader
from attn_jax.bridge.keymap import Report
from attn_jax.bridge.pi05 import WEIGHTS, image_keys, read_config, read_pi05
from attn_jax.bridge.processors import Processors
from attn_jax.core.errors import CheckpointError, ConfigError
from attn_jax.core.typing import PathLike
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.models.pi05.lora import LoraConfig, merged
from attn_jax.models.pi05.model import param_shapes
from attn_jax.models.pi05.supervision import Supervision
from attn_jax.train.checkpoints import fingerprint, load_metadata, load_params

CHECKPOINTS, PROCESSORS = "checkpoints", "processors"
#: Beside LeRobot's files, where attention was supervised: a list, see `OpenCheckpoint.supervision`.
SUPERVISION = "supervision.json"
FAMILY = "pi05"


@dataclasses.dataclass(frozen=True, eq=False)
class OpenCheckpoint:
    """What a folder says without its weights.

    Attributes:
      folder: the folder.
      kind: `lerobot`, or `run` for Orbax checkpoints.
      config: the model.
      settings: LeRobot's `config.json`, or what it would be.
      processor_folder: where the processors are, if there are any.
      lora: corrections that were trained beside the model; `params` has them merged in.
      step: which checkpoint of a run: a number, `latest` or `best`.
      ema: take the averaged parameters of a run where it kept them.
      supervision: where attention was taught to look, one `Supervision.to_json` per training run
        from the first to the last; empty where none was, or where the folder does not say.
    """

    folder: pathlib.Path
    kind: str
    config: Pi05Config
    settings: Mapping[str, Any]
    processor_folder: pathlib.Path
    lora: LoraConfig | None = None
    step: int | str = "latest"
    ema: bool = True
    supervision: tuple[Mapping[str, str], ...] = ()

    @functools.cached_property
    def image_keys(self) -> dict[str, str]:
        """Camera name -> LeRobot's key, in configured order."""
        return image_keys(self.settings, self.config)

    def identity(self) -> dict[str, Any]:
        """Which checkpoint it is, for the provenance of a run; reads no tensors.

        Returns:
          `checkpoint`, the name of the folder; `checkpoint_fingerprint`, which changes with the
          weights; of a training run `checkpoint_step`; and `supervision` if there was any.

        Raises:
          CheckpointError: the weights are missing or damaged.
        """
        out: dict[str, Any] = {"checkpoint": self.folder.absolute().name}
        if self.supervision:
            out["supervision"] = [dict(entry) for entry in self.supervision]
        if self.kind == "lerobot":
            text = safetensors_reader.fingerprint(self.folder / WEIGHTS)
            return out | {"checkpoint_fingerprint": text}
        step, text = fingerprint(self.folder, ema=self.ema, step=self.step)
        return out | {"checkpoint_step": step, "checkpoint_fingerprint": text}

    def params(self) -> dict[str, Any]:
        """The parameters, complete, in the dtypes of `config.precision`.

        Raises:
          CheckpointError: a tensor is missing, unknown, damaged or does not fit.
        """
        return self.read()[0]

    def read(self) -> tuple[dict[str, Any], Report | None]:
        """Parameters, and what became of every tensor of a LeRobot file (None for a run).

        Raises:
          CheckpointError: as `params`.
        """
        if self.kind == "lerobot":
            sizes, precision = self.config.architecture, self.config.precision
            found = read_pi05(self.folder, architecture=sizes, precision=precision)
            found.report.require(self.folder)
            return found.params, found.report
        params = load_params(self.folder, ema=self.ema, step=self.step)
        if self.lora is not None:
            params = merged(self.lora, params)
        return _fitted(params, self.config, self.folder), None

    def processors(self, tokenizer: PathLike | None = None) -> Processors | None:
        """Pre- and post-processor; None where the folder has none.

        Args:
          tokenizer: instead of the checkpoint's own, see `Processors.load`.

        Raises:
          CheckpointError: they are damaged or hold something unknown.
        """
        if not Processors.present(self.processor_folder):
            return None
        return Processors.load(self.processor_folder, tokenizer)


def open_checkpoint(
    path: PathLike, *, precision: str | None = None, step: int | str = "latest", ema: bool = True
) -> OpenCheckpoint:
    """Opens a checkpoint folder of any kind.

    Args:
      path: a LeRobot folder, the --workdir of a training run, or a folder of `launch.bridge`.
      precision: see `Pi05Config`; None is what the checkpoint says.
      step: which checkpoint of a run: a number, `latest` or `best`.
      ema: take the averaged parameters of a run where it kept them.

    Raises:
      CheckpointError: no checkpoint, a damaged one, or one of another model family.
      ConfigError: sizes or settings that cannot be.
    """
    folder = pathlib.Path(path)
    if folder.name == CHECKPOINTS and not (folder / CHECKPOINTS).is_dir():
        folder = folder.parent
    if not folder.is_dir():
        raise CheckpointError("no such folder", where=folder, fix="Give a checkpoint folder")
    if not (folder / CHECKPOINTS).is_dir():
        settings, config = read_config(folder)
        opened = OpenCheckpoint(
            folder, "lerobot", config, settings, folder, supervision=_read_supervision(folder)
        )
    else:
        metadata = load_metadata(folder, step=step)
        if metadata.get("family") != FAMILY:
            raise CheckpointError(
                f"holds a model of the family {metadata.get('family')!r}, not {FAMILY!r}",
                where=folder,
            )
        try:
            config = Pi05Config.from_json(metadata["model"])
            settings = dict(metadata["settings"])
            lora = LoraConfig(**metadata["lora"]) if metadata.get("lora") else None
            supervision = _checked(metadata.get("supervision", []))
        except (KeyError, TypeError, ConfigError) as error:
            raise CheckpointError(f"its metadata are damaged: {error}", where=folder) from error
        opened = OpenCheckpoint(
            folder, "run", config, settings, folder / PROCESSORS, lora, step, ema, supervision
        )
    if precision is not None:
        opened = dataclasses.replace(
            opened, config=dataclasses.replace(opened.config, precision=precision)
        )
    return opened


def _read_supervision(folder: pathlib.Path) -> tuple[Mapping[str, str], ...]:
    """`supervision.json`; empty where there is none."""
    path = folder / SUPERVISION
    try:
        return _checked(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"damaged: {error}", where=path, fix="Copy the checkpoint again"
        ) from error


def _checked(value: Any) -> tuple[Mapping[str, str], ...]:
    """The list of what was supervised; raises TypeError or ConfigError when it is none."""
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise TypeError("supervision is no list of objects")
    if not all(isinstance(text, str) for entry in value for text in entry.values()):
        raise TypeError("supervision holds values that are no texts")
    return tuple(Supervision(**entry).to_json() for entry in value)


def _fitted(params: dict[str, Any], config: Pi05Config, where: pathlib.Path) -> dict[str, Any]:
    """The tree in the dtypes of `config`; checks names and shapes. `params` is used up."""
    wanted: dict[str, Any] = flax.traverse_util.flatten_dict(param_shapes(config), sep="/")
    found: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    params.clear()
    wrong = sorted(
        name
        for name in {*wanted, *found}
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"parameters do not fit the model: {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            where=where,
        )
    for name, leaf in found.items():
        if leaf.dtype != wanted[name].dtype:
            cast = np.asarray(leaf).astype(wanted[name].dtype)
            found[name] = jax.device_put(cast) if isinstance(leaf, jax.Array) else cast
    return flax.traverse_util.unflatten_dict(found, sep="/")
