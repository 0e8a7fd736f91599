"""Episode: what a policy saw and did at the steps where it was called, on disk and in memory.

An episode folder lies beside, or is, the attention record of the same episode. Its two files are
`observations.npz` (arrays; masks bit-packed) and `observations.json` (everything else, and a
checksum that ties the two together). The JSON is written last: an episode without it does not
exist. Other prompts on the same frames are runs of their own below `variants/<key>/`; their files
name the episode whose pictures and masks they share instead of repeating them.

Axis names: c calls, o objects, h w pixels of one camera, s state, H horizon, a action.

    write_episode("RUN/episodes/episode_00000", episode)
    for folder in episodes_of("RUN"):
        episode = read_episode(folder)
        episode.masks["wrist"][:, episode.objects.index("cube")]        # (c, h, w) bool
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from attn_jax.core import files
from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import EpisodeError
from attn_jax.core.typing import NumpyArray, PathLike

FORMAT = "attn_jax.episode/1"
ARRAYS, META = "observations.npz", "observations.json"
EPISODES, VARIANTS = "episodes", "variants"
#: (c, H, a) actions of the recording, beside the episode of a policy that was run over it.
RECORDED = "recorded_actions.npy"
CALIBRATION = ("depth_m", "pose", "intrinsics")
ROLES = ("target", "distractor", "place", "other")
ROTATIONS = ("model_rot180", "video_rot180")

_DAMAGED = "Record the episode again, or remove its folder"


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """One episode at the steps where the policy is called.

    Attributes:
      info: JSON-compatible facts: `prompt`, `success` (bool or None), `task`, `seed`, `source`,
        `fps`, `geometry` (camera -> `model_rot180`, `video_rot180`).
      env_step: (c,) integers, increasing: environment step of every call.
      images: camera -> (c, h, w, 3) uint8, in "model" space: what the policy's pre-processor
        gets, before the letterbox.
      objects: names of the objects that masks show.
      roles: object -> `target`, `distractor`, `place` or `other`; an object that is left out is
        `other`.
      masks: camera -> (c, o, h, w) bool in the space of the camera's images; may be empty.
      state: (c, s) float32, finite.
      actions: (c, H, a) float32, finite: predicted or recorded chunks in robot units, or None.
      calibration: camera -> where it is and how far it sees at every call, in pixels of its images;
        depth becomes float16 (1 mm at 2 m). May be empty.

    Raises:
      EpisodeError: shapes disagree, a type is another one, a name repeats, or a value of the state
        or the actions is NaN or infinite.
    """

    info: Mapping[str, Any]
    env_step: NumpyArray
    images: Mapping[str, NumpyArray]
    objects: tuple[str, ...]
    roles: Mapping[str, str]
    masks: Mapping[str, NumpyArray]
    state: NumpyArray
    actions: NumpyArray | None = None
    calibration: Mapping[str, Calibration] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "info", _checked_info(self.info, self.images))
        object.__setattr__(self, "objects", tuple(self.objects))
        self._check_names()
        roles = {name: self.roles.get(name, "other") for name in self.objects}
        object.__setattr__(self, "roles", roles)
        calls = self._check_steps()
        for camera, pictures in self.images.items():
            _require(pictures, "uint8", (calls, None, None, 3), f"images of {camera!r}")
        for camera, masks in self.masks.items():
            if camera not in self.images:
                raise EpisodeError(
                    f"masks of a camera {camera!r} that has no images",
                    fix=f"Cameras: {', '.join(self.images) or 'none'}",
                )
            shape = (calls, len(self.objects), *self.images[camera].shape[1:3])
            _require(masks, "bool", shape, f"masks of {camera!r}")
        _require(self.state, "float32", (calls, None), "state", finite=True)
        if self.actions is not None:
            _require(self.actions, "float32", (calls, None, None), "actions", finite=True)
        found = {c: self._checked(c, given, calls) for c, given in self.calibration.items()}
        object.__setattr__(self, "calibration", found)

    @property
    def num_calls(self) -> int:
        """Calls of the policy, c."""
        return len(self.env_step)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras in order."""
        return tuple(self.images)

    @property
    def prompt(self) -> str:
        """What the policy was told; empty when the episode does not say."""
        return str(self.info.get("prompt") or "")

    def nearest_call(self, step: int) -> int:
        """Number of the last call at or before an environment step.

        Raises:
          EpisodeError: the step lies before the first call.
        """
        call = int(np.searchsorted(self.env_step, step, side="right")) - 1
        if call < 0:
            raise EpisodeError(f"step {step} lies before the first call, step {self.env_step[0]}")
        return call

    def _check_steps(self) -> int:
        _require(self.env_step, "int", (None,), "env_step")
        steps = self.env_step
        if not len(steps):
            raise EpisodeError("an episode needs at least one call")
        if steps[0] < 0 or (np.diff(steps) <= 0).any():
            raise EpisodeError(f"env_step must increase from 0 or more, got {steps.tolist()[:8]}")
        return len(steps)

    def _checked(self, camera: str, given: Calibration, calls: int) -> Calibration:
        what = f"calibration of {camera!r}"
        if camera not in self.images:
            raise EpisodeError(
                f"{what}, which has no images", fix=f"Cameras: {', '.join(self.images) or 'none'}"
            )
        depth = np.asarray(given.depth_m, np.float16)
        _require(depth, "float16", (calls, *self.images[camera].shape[1:3]), f"depth, {what}")
        pose, intrinsics = (np.asarray(a, np.float64) for a in (given.pose, given.intrinsics))
        _require(pose, "float64", (calls, 4, 4), f"pose, {what}", finite=True)
        _require(intrinsics, "float64", (3, 3), f"intrinsics, {what}", finite=True)
        return Calibration(depth, pose, intrinsics)

    def _check_names(self) -> None:
        if len(set(self.objects)) != len(self.objects):
            raise EpisodeError(f"object names repeat: {sorted(self.objects)}")
        for name in (*self.objects, *self.images):
            if not name or not isinstance(name, str):
                raise EpisodeError(f"an object or camera needs a name, got {name!r}")
        for name, role in self.roles.items():
            if name not in self.objects:
                raise EpisodeError(f"a role for {name!r}, which is no object of the episode")
            if role not in ROLES:
                raise EpisodeError(f"{name!r} has role {role!r}", fix=f"Use one of {ROLES}")


def _checked_info(info: Mapping[str, Any], images: Mapping[str, NumpyArray]) -> dict[str, Any]:
    """The info as it will be read back; tuples become lists."""
    try:
        plain = json.loads(json.dumps(dict(info), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise EpisodeError(f"info is not JSON-compatible: {error}") from error
    if not isinstance(plain.get("success"), bool | None):
        raise EpisodeError(f"success must be true, false or null, got {plain['success']!r}")
    if not isinstance(plain.get("prompt"), str | None):
        raise EpisodeError(f"prompt must be text, got {plain['prompt']!r}")
    for camera, flags in (plain.get("geometry") or {}).items():
        valid = isinstance(flags, dict) and all(isinstance(v, bool) for v in flags.values())
        if camera not in images or not valid or not set(flags) <= set(ROTATIONS):
            raise EpisodeError(
                f"geometry of {camera!r} is {flags!r}",
                fix=f"Give cameras of the episode true or false for {' and '.join(ROTATIONS)}",
            )
    return plain


def _require(
    value: NumpyArray, kind: str, shape: tuple[int | None, ...], what: str, *, finite: bool = False
) -> None:
    """Raises unless an array has a dtype (`int` is any integer) and a shape (None is any size)."""
    found = "int" if np.issubdtype(value.dtype, np.integer) and kind == "int" else value.dtype.name
    fits = value.ndim == len(shape) and all(
        want is None or size == want for size, want in zip(value.shape, shape, strict=True)
    )
    if found != kind or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise EpisodeError(
            f"{what}: {value.dtype.name} of shape {value.shape}, expected {kind} of ({wanted})"
        )
    if finite and not np.isfinite(value).all():
        call = int(np.argwhere(~np.isfinite(value))[0][0])
        raise EpisodeError(
            f"{what}: NaN or infinite at call {call}", fix="Leave that step or the episode out"
        )


def write_episode(folder: PathLike, episode: Episode, *, frames_of: PathLike | None = None) -> None:
    """Writes the two files of an episode, each whole or not at all; replaces earlier ones.

    Args:
      folder: of the episode; made when missing.
      episode: what to write.
      frames_of: folder of an episode with the same pictures and masks, which are then not written
        again; the two folders keep their places relative to each other.

    Raises:
      EpisodeError: the episode of `frames_of` has other calls, cameras, objects or sizes.
      DiskFullError: no space left; an earlier episode stays while its arrays are not replaced.
    """
    folder = pathlib.Path(folder)
    shared = None if frames_of is None else _share(folder, episode, pathlib.Path(frames_of))
    with files.disk_errors(folder, what="an episode"):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = _arrays_of(episode, with_frames=shared is None)
        files.replace_file(folder / ARRAYS, lambda file: _save_arrays(file, arrays, folder / META))
        meta = {
            "format": FORMAT,
            "info": episode.info,
            "cameras": [*episode.images],
            "objects": [*episode.objects],
            "roles": dict(episode.roles),
            "mask_width": {camera: masks.shape[-1] for camera, masks in episode.masks.items()},
            "calibrated": [*episode.calibration],
            "calls": episode.num_calls,
            "crc32": _checksum(folder / ARRAYS),
            "frames": shared,
        }
        files.write_json(folder / META, meta)


def _share(folder: pathlib.Path, episode: Episode, other: pathlib.Path) -> dict[str, str]:
    """Where the frames of an episode are, relative to `folder`, and the checksum they have."""
    meta = read_meta(other)
    mine = {
        "calls": episode.num_calls,
        "cameras": [*episode.images],
        "objects": [*episode.objects],
        "mask_width": {camera: masks.shape[-1] for camera, masks in episode.masks.items()},
        "calibrated": [*episode.calibration],
    }
    for field, value in mine.items():
        if meta.get(field, []) != value:  # older files say nothing of calibration
            raise EpisodeError(f"{field} are {meta.get(field)}, wanted are {value}", where=other)
    if meta.get("frames"):
        raise EpisodeError("has its frames from another episode", where=other, fix="Name that one")
    where = pathlib.Path(os.path.relpath(other.absolute(), folder.absolute()))
    return {"folder": where.as_posix(), "crc32": meta["crc32"]}


def _arrays_of(episode: Episode, *, with_frames: bool) -> dict[str, NumpyArray]:
    arrays: dict[str, Any] = {"env_step": episode.env_step, "state": episode.state}
    if episode.actions is not None:
        arrays["actions"] = episode.actions
    if with_frames:
        arrays |= {f"images/{camera}": pictures for camera, pictures in episode.images.items()}
        for camera, masks in episode.masks.items():
            arrays[f"masks/{camera}"] = np.packbits(masks, axis=-1)
        for camera, found in episode.calibration.items():
            for name in CALIBRATION:
                arrays[f"{name}/{camera}"] = getattr(found, name)
    return arrays


def _save_arrays(file: BinaryIO, arrays: dict[str, Any], meta: pathlib.Path) -> None:
    np.savez_compressed(file, **arrays)
    meta.unlink(missing_ok=True)  # that of an earlier episode, which is about to be replaced


def _checksum(path: pathlib.Path) -> str:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return f"{crc:08x}"


def read_episode(folder: PathLike, *, frames_of: tuple[PathLike, Episode] | None = None) -> Episode:
    """Reads an episode, with the pictures and masks that it shares with another one.

    Args:
      folder: of the episode.
      frames_of: folder and contents of an episode that was read already; when the pictures and
        masks are shared with it, its arrays are taken instead of reading them once more.

    Raises:
      EpisodeError: a file is missing, damaged, of another format, or belongs to another episode.
    """
    folder = pathlib.Path(folder)
    meta = read_meta(folder)
    own = _load(folder / ARRAYS, meta["crc32"])
    calibrated = meta.get("calibrated", ())  # older files have none
    frames, known = own, None
    if shared := meta.get("frames"):
        if frames_of is not None and _is_shared(folder, shared, frames_of[0]):
            known = frames_of[1]
        else:
            frames = _load(folder / shared["folder"] / ARRAYS, shared["crc32"])
    try:
        if known is not None:
            images = {camera: known.images[camera] for camera in meta["cameras"]}
            masks = {camera: known.masks[camera] for camera in meta["mask_width"]}
            calibration = {camera: known.calibration[camera] for camera in calibrated}
        else:
            images = {camera: frames[f"images/{camera}"] for camera in meta["cameras"]}
            masks = {
                camera: np.unpackbits(frames[f"masks/{camera}"], axis=-1, count=width).view(
                    np.bool_
                )
                for camera, width in meta["mask_width"].items()
            }
            calibration = {
                camera: Calibration(*(frames[f"{name}/{camera}"] for name in CALIBRATION))
                for camera in calibrated
            }
        return Episode(
            info=meta["info"],
            env_step=own["env_step"],
            images=images,
            objects=tuple(meta["objects"]),
            roles=meta["roles"],
            masks=masks,
            state=own["state"],
            actions=own.get("actions"),
            calibration=calibration,
        )
    except EpisodeError as error:
        raise EpisodeError(error.what, where=folder / ARRAYS, fix=error.fix) from error
    except (KeyError, ValueError, TypeError) as error:
        raise EpisodeError(
            f"file is damaged: {error}", where=folder / ARRAYS, fix=_DAMAGED
        ) from error


def read_actions(folder: PathLike) -> NumpyArray | None:
    """(c, H, a) actions of an episode, without reading its pictures; None when it has none.

    Raises:
      EpisodeError: a file is missing, damaged, or belongs to another episode.
    """
    folder = pathlib.Path(folder)
    return _load(folder / ARRAYS, read_meta(folder)["crc32"], only=("actions",)).get("actions")


def _is_shared(folder: pathlib.Path, shared: Mapping[str, str], other: PathLike) -> bool:
    """Whether the frames of an episode are those of the episode in `other`, unchanged since."""
    where = (folder / shared["folder"]).resolve()
    return where == pathlib.Path(other).resolve() and read_meta(where)["crc32"] == shared["crc32"]


def _load(
    path: pathlib.Path, crc32: str, only: tuple[str, ...] | None = None
) -> dict[str, NumpyArray]:
    try:
        if _checksum(path) != crc32:
            raise EpisodeError(f"does not belong to the {META} beside it", where=path, fix=_DAMAGED)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if only is None or name in only}
    except FileNotFoundError as error:
        raise EpisodeError("file is missing", where=path, fix=_DAMAGED) from error
    except EpisodeError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, AttributeError) as error:
        raise EpisodeError(f"file is damaged: {error}", where=path, fix=_DAMAGED) from error


def read_meta(folder: PathLike) -> dict[str, Any]:
    """Contents of `observations.json`: what can be known of an episode without its arrays.

    Raises:
      EpisodeError: missing, damaged, or of another format.
    """
    path = pathlib.Path(folder) / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EpisodeError(
            "no recorded episode here", where=folder, fix=f"Name a folder with {META}"
        ) from error
    except (ValueError, OSError) as error:
        raise EpisodeError(f"file is damaged: {error}", where=path, fix=_DAMAGED) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise EpisodeError(f"not of format {FORMAT}", where=path)
    kinds = {"info": dict, "cameras": list, "objects": list, "roles": dict, "mask_width": dict}
    for field, kind in (kinds | {"calls": int, "crc32": str}).items():
        if not isinstance(meta.get(field), kind):
            raise EpisodeError(f"field {field!r} is missing or malformed", where=path, fix=_DAMAGED)
    return meta


def episodes_of(run: PathLike) -> Iterator[pathlib.Path]:
    """Folders of the recorded episodes of a run in order; an episode folder is itself.

    Folders without `observations.json` (an episode that was not finished, or a record without
    observations) are left out.

    Raises:
      EpisodeError: there is none.
    """
    run = pathlib.Path(run)
    if (run / META).is_file():
        yield run
        return
    found = [f.parent for f in sorted((run / EPISODES).glob(f"episode_*/{META}"))]
    if not found:
        raise EpisodeError(
            "no recorded episodes here",
            where=run,
            fix=f"Name a run folder with {EPISODES}/episode_*/{META}",
        )
    yield from found


def variants_of(run: PathLike) -> dict[str, pathlib.Path]:
    """Other prompts or noise on the frames of a run: key -> run folder, sorted by key."""
    return {f.name: f for f in sorted((pathlib.Path(run) / VARIANTS).glob("*")) if f.is_dir()}


def episode_folder(run: PathLike, episode: int) -> pathlib.Path:
    """Folder of episode number `episode` of a run."""
    return pathlib.Path(run) / EPISODES / f"episode_{episode:05d}"
