"""LeRobot Pi0.5 checkpoint folders: reading them, and writing one that LeRobot loads.

A folder holds `config.json` and `model.safetensors`; beside them may stand `architecture.json`, the
layer sizes that `config.json` does not know (keys as in `Architecture`, any subset; absent means
the published sizes). Folders of openpi's PyTorch converter are read too. Reading maps one tensor at
a time. A checkpoint is accepted whole or not at all: other than LeRobot, nothing is ever left at
random values.

    checkpoint = read_pi05("checkpoints/pi05_libero")
    checkpoint.report.require("checkpoints/pi05_libero")
    sample(checkpoint.config, checkpoint.params, inputs, noise)
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging

from attn_jax.bridge import keymap, openpi_settings
from attn_jax.bridge.keymap import Ignored, Report
from attn_jax.bridge.pi05_table import EMBEDDING, EXPERT, EXPERT_LM_HEAD, LM_HEAD, table
from attn_jax.bridge.safetensors_reader import open_safetensors
from attn_jax.core.errors import CheckpointError, ConfigError
from attn_jax.core.typing import NumpyArray, PathLike
from attn_jax.models.pi05.config import Architecture, Pi05Config
from attn_jax.models.pi05.model import param_shapes

WEIGHTS = "model.safetensors"
SETTINGS = "config.json"
SIZES = "architecture.json"

_VARIANTS = {"gemma_2b": (2048, 16384), "gemma_300m": (1024, 4096)}  # width, mlp
_PRECISIONS = {"float32": "float32", "bfloat16": "bfloat16_lerobot"}
_PLAIN_EXPERT_NORM = re.compile(
    re.escape(EXPERT)
    + r"\.model\.(layers\.\d+\.(input_layernorm|post_attention_layernorm)|norm)\.weight"
)
_RENAMED = {
    "model.action_time_mlp_in.": "model.time_mlp_in.",
    "model.action_time_mlp_out.": "model.time_mlp_out.",
}


@dataclasses.dataclass(frozen=True)
class Pi05Checkpoint:
    """An imported checkpoint.

    Attributes:
      config: the model.
      params: parameters of `Pi05`, NumPy arrays in the dtypes of `config.precision`; usable once
        `report.complete`.
      report: what became of every tensor.
      image_keys: camera name -> key of the camera in LeRobot's observations, in configured order.
      settings: `config.json`, in LeRobot's terms where it is openpi's.
    """

    config: Pi05Config
    params: dict[str, Any]
    report: Report
    image_keys: Mapping[str, str]
    settings: Mapping[str, Any]


def read_pi05(
    folder: PathLike,
    *,
    architecture: Architecture | None = None,
    precision: str | None = None,
) -> Pi05Checkpoint:
    """Reads a checkpoint folder; logs a warning that names what it does not use, save text heads.

    Args:
      folder: with `config.json` and `model.safetensors`.
      architecture: layer sizes; None takes them from `architecture.json`, or from the variant names
        in `config.json`.
      precision: see `Pi05Config`; None is what `config.json` says, as LeRobot computes it.

    Raises:
      CheckpointError: a file is missing, damaged or of another policy. Tensors that are missing,
        unknown or do not fit are only reported.
      ConfigError: sizes or settings that cannot be.
    """
    folder = pathlib.Path(folder)
    settings, config, _ = _read_config(folder, architecture)
    if precision is not None:
        config = dataclasses.replace(config, precision=precision)
    weights = open_safetensors(folder / WEIGHTS)
    tensors, ignored = _canonical(weights, folder / WEIGHTS)
    rows = table(config.architecture)
    rules = [
        *(row.rule for row in rows),
        *(Ignored(name, reason) for name, reason in ignored.items()),
    ]
    params, report = keymap.convert(rules, tensors, param_shapes(config))
    # Users know their own names better than ours.
    theirs = {path: name for row in rows for name, path in row.names()}
    missing = tuple(f"{theirs[path]} (our {path})" for path in report.missing)
    report = dataclasses.replace(report, missing=missing)
    _warn_of_ignored(report, folder / WEIGHTS)
    return Pi05Checkpoint(config, params, report, image_keys(settings, config), settings)


def _warn_of_ignored(report: Report, where: pathlib.Path) -> None:
    """Every ordinary file has the two heads, so they are not worth a warning."""
    names = {
        name: reason
        for name, reason in report.ignored.items()
        if name not in (LM_HEAD, EXPERT_LM_HEAD)
    }
    if names:
        text = "; ".join(f"{name} ({reason})" for name, reason in names.items())
        logging.warning("%s: tensors that are not used: %s", where, text)


class _Tensors(Mapping[str, NumpyArray]):
    """Tensors of a file under canonical names; still lazy."""

    def __init__(self, file: Mapping[str, NumpyArray], names: Mapping[str, str]):
        self._file, self._names = file, names

    def __getitem__(self, name: str) -> NumpyArray:
        return self._file[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _canonical(
    file: Mapping[str, NumpyArray], where: pathlib.Path
) -> tuple[_Tensors, dict[str, str]]:
    """Names as LeRobot 0.6.1 writes them, and the names that are not loaded with the reason."""
    names: dict[str, str] = {}
    for name in file:
        canonical = name if name.startswith("model.") else f"model.{name}"
        for old, new in _RENAMED.items():
            if canonical.startswith(old):
                canonical = new + canonical.removeprefix(old)
        if canonical in names:
            raise CheckpointError(
                f"tensors {names[canonical]!r} and {name!r} mean the same", where=where
            )
        names[canonical] = name
    ignored = {EXPERT_LM_HEAD: "actions do not need it"}
    if EMBEDDING in names:
        ignored[LM_HEAD] = "the token embedding is stored beside it"
    elif LM_HEAD in names:
        names[EMBEDDING] = names.pop(LM_HEAD)  # tied
    for name in names:
        if name.startswith("model.state_proj."):
            ignored[name] = "belongs to pi0; in pi0.5 the state is part of the prompt"
        if _PLAIN_EXPERT_NORM.fullmatch(name):
            if name.removesuffix("weight") + "dense.weight" not in names:
                raise CheckpointError(
                    f"is a pi0 checkpoint: the action expert has the plain norm {names[name]!r}",
                    where=where,
                    fix="Give a pi0.5 checkpoint, whose expert norms are conditioned on time",
                )
            ignored[name] = "plain norm of pi0 beside the conditioned one"
    return _Tensors(file, names), ignored


def read_config(
    folder: PathLike, *, architecture: Architecture | None = None
) -> tuple[dict[str, Any], Pi05Config]:
    """`config.json` of a folder and the model it describes; weights are not looked at.

    Logs a warning that says what openpi's file leaves open and how it was taken.

    Args:
      folder: a checkpoint folder.
      architecture: layer sizes; None takes them from the folder.

    Raises:
      CheckpointError: a file is missing, damaged or of another policy.
      ConfigError: sizes or settings that cannot be.
    """
    settings, config, of_openpi = _read_config(pathlib.Path(folder), architecture)
    if of_openpi:
        logging.warning(
            "%s is openpi's: taking all %d action dimensions as real, the cameras %s, "
            "%d denoising steps and %d prompt tokens",
            pathlib.Path(folder) / SETTINGS,
            config.action_dim,
            ", ".join(config.cameras),
            config.num_inference_steps,
            config.prompt_length,
        )
    return settings, config


def _read_config(
    folder: pathlib.Path, architecture: Architecture | None
) -> tuple[dict[str, Any], Pi05Config, bool]:
    """Settings in LeRobot's terms, the model, and whether the file is openpi's."""
    settings = read_settings(folder)
    sizes = architecture or _read_sizes(folder)
    config = config_from_settings(settings, sizes, where=folder / SETTINGS)
    of_openpi = openpi_settings.is_openpi(_read_json(folder / SETTINGS))
    if of_openpi and config.precision != "float32":
        # LeRobot's file has no name for this arithmetic, so `settings` do not carry it.
        config = dataclasses.replace(config, precision="bfloat16_openpi")
    return settings, config, of_openpi


def read_settings(folder: PathLike) -> dict[str, Any]:
    """`config.json` of a checkpoint folder, in LeRobot's terms where it is openpi's.

    Raises:
      CheckpointError: missing, no JSON object, or not of a pi05 policy.
      ConfigError: openpi's, with a field that is missing or cannot be.
    """
    path = pathlib.Path(folder) / SETTINGS
    settings = _read_json(path)
    if openpi_settings.is_openpi(settings):
        return openpi_settings.as_lerobot(settings, where=path)
    if settings.get("type") != "pi05":
        raise CheckpointError(
            f"says that the policy is of type {settings.get('type')!r}, not 'pi05'", where=path
        )
    return settings


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError("no such file", where=path, fix="Give a checkpoint folder")
    try:
        data = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"not readable as JSON: {error}", where=path) from error
    if not isinstance(data, dict):
        raise CheckpointError("holds no JSON object", where=path)
    return data


def _read_sizes(folder: pathlib.Path) -> Architecture | None:
    path = folder / SIZES
    if not path.exists():
        return None
    try:
        return Architecture.from_json(_read_json(path))
    except ConfigError as error:
        raise ConfigError(error.what, where=f"{path}: {error.where}", fix=error.fix) from error


def config_from_settings(
    settings: Mapping[str, Any], architecture: Architecture | None, *, where: PathLike
) -> Pi05Config:
    """The model configuration of LeRobot's `config.json`.

    Args:
      settings: its content.
      architecture: layer sizes; None derives them from the variant names.
      where: the file, for messages.

    Raises:
      ConfigError: a field of the wrong kind, one that contradicts `architecture`, or real-time
        chunking, which is not supported.
    """
    rtc = settings.get("rtc_config")
    if rtc is not None and not (isinstance(rtc, Mapping) and rtc.get("enabled") is False):
        raise ConfigError(
            "rtc_config asks for real-time chunking, which is not supported: the actions would be "
            "others",
            where=where,
            fix='Set "rtc_config" to null for plain chunks',
        )
    side = _image_side(settings, where)
    if architecture is None:
        architecture = _variant_sizes(settings, side, where)
    elif settings.get("image_resolution") and architecture.image_size != side:
        raise ConfigError(
            f"image_resolution is {side}, {SIZES} says {architecture.image_size}", where=where
        )
    dtype = settings.get("dtype", "float32")
    if dtype not in _PRECISIONS:
        raise ConfigError(f"unknown dtype {dtype!r}", where=where, fix=f"Known: {[*_PRECISIONS]}")
    given = {
        ours: settings[theirs]
        for ours, theirs in (
            ("max_action_dim", "max_action_dim"),
            ("chunk_size", "chunk_size"),
            ("n_action_steps", "n_action_steps"),
            ("num_inference_steps", "num_inference_steps"),
            ("prompt_length", "tokenizer_max_length"),
            ("min_period", "min_period"),
            ("max_period", "max_period"),
            ("time_alpha", "time_sampling_beta_alpha"),
            ("time_beta", "time_sampling_beta_beta"),
            ("time_scale", "time_sampling_scale"),
            ("time_offset", "time_sampling_offset"),
        )
        if settings.get(theirs) is not None
    }
    outputs = settings.get("output_features") or {}
    action = outputs.get("action", {}).get("shape") or [given.get("max_action_dim", 32)]
    return Pi05Config(
        architecture=architecture,
        cameras=tuple(camera_name(key) for key in _image_features(settings)) or ("base",),
        action_dim=int(action[0]),
        precision=_PRECISIONS[dtype],
        **given,
    )


def _image_side(settings: Mapping[str, Any], where: PathLike) -> int:
    resolution = settings.get("image_resolution") or [224, 224]
    if len(resolution) != 2 or resolution[0] != resolution[1]:
        raise ConfigError(f"image_resolution {resolution} is not square", where=where)
    return int(resolution[0])


def _variant_sizes(settings: Mapping[str, Any], side: int, where: PathLike) -> Architecture:
    sizes = []
    for field, usual in (
        ("paligemma_variant", "gemma_2b"),
        ("action_expert_variant", "gemma_300m"),
    ):
        name = settings.get(field, usual)
        if name not in _VARIANTS:
            raise ConfigError(
                f"unknown {field} {name!r}",
                where=where,
                fix=f"Known: {', '.join(_VARIANTS)}; or put the sizes into {SIZES}",
            )
        sizes += _VARIANTS[name]
    return Architecture(*sizes, image_size=side)


def _image_features(settings: Mapping[str, Any]) -> list[str]:
    """Keys of the cameras in configured order, empty ones included."""
    features = settings.get("input_features") or {}
    keys = [key for key, feature in features.items() if feature.get("type") == "VISUAL"]
    for i in range(int(settings.get("empty_cameras") or 0)):
        key = f"observation.images.empty_camera_{i}"
        if key not in keys:
            keys.append(key)
    return keys


def camera_name(key: str) -> str:
    """`observation.images.wrist` as `wrist`."""
    return key.removeprefix("observation.").removeprefix("images.")


def image_keys(settings: Mapping[str, Any], config: Pi05Config) -> dict[str, str]:
    """Camera name -> LeRobot's key, in configured order."""
    keys = _image_features(settings) or [f"observation.images.{name}" for name in config.cameras]
    return {camera_name(key): key for key in keys}
