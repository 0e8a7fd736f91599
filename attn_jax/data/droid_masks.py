"""Object masks of a DROID-style episode, from either of the detectors' file layouts; wrist camera.

- `dinox_info.json`: {"8": [{"bbox": [x1, y1, x2, y2], "mask_file": ..., "category": ..., "score":
  ...}]} with `masks/00008_duck_0.npy` (h, w) bool. An entry counts when it has a mask file and a
  finite, positive score.
- `perception/00008/perception.h5`: `wrist/masks` (n, h, w), `wrist/bboxes/labels` (n).

An object is a category or label; several instances in a frame are one mask. Roles come from
`object_matching.yaml` where it is present ({grasp: [duck], place: [bowl], other: [banana]}, or
{duck: grasp}), else from the prompt.

Axis names: t frames, o objects, h w pixels.

    objects, masks = read_masks(folder, "dinox", [0, 8], (720, 1280))      # masks (t, o, h, w)
    roles = read_roles(folder, objects, "put the duck in the bowl")        # duck target, bowl place
"""

from __future__ import annotations

import itertools
import math
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import numpy as np
import yaml

from attn_jax.core.errors import EpisodeError
from attn_jax.core.typing import Bool, NumpyArray
from attn_jax.data.droid_files import read_json

DINOX, MASKS = "dinox_info.json", "masks"
PERCEPTION, MATCHING = "perception", "object_matching.yaml"
SOURCES = ("auto", "perception", "dinox", "none")
#: Role in the matching file -> role of an episode's object. What is neither grasped nor a place to
#: put things stands in the scene to distract.
MATCHED = {"grasp": "target", "place": "place", "other": "distractor"}

_THRESHOLD = "Write masks as true and false: scores and probabilities need a threshold first"
_DETECT_AGAIN = "Run the detector on that frame again, or list other frames in white_list.json"
_TO = ("into", "onto", "to", "inside")
_AT = ("in", "on", "at")  # a place after "put", else where the target is now
_FROM = ("from", "off")
_WHERE = rf"(?:{'|'.join((*_TO, *_AT, *_FROM))}) (?:of )?(?:(?:the|a|an) )?(?:\w+ )?"
_MOVING = r" (?:put|place|drop|set|move|lay|insert|stack|bring|pour|store) "


def mask_source(folder: pathlib.Path, wanted: str = "auto") -> str:
    """Which layout an episode has: `perception`, `dinox` or `none` as wanted.

    Raises:
      EpisodeError: the wanted one is unknown or absent; with `auto`, neither is there.
    """
    if wanted not in SOURCES:
        raise EpisodeError(f"unknown mask source {wanted!r}", fix=f"Use one of {SOURCES}")
    there = {"perception": (folder / PERCEPTION).is_dir(), "dinox": (folder / DINOX).is_file()}
    if wanted == "none":
        return wanted
    found = [name for name in there if there[name] and wanted in ("auto", name)]
    if not found:
        files = {"perception": f"{PERCEPTION}/", "dinox": DINOX}
        missing = " nor ".join(files[name] for name in files if wanted in ("auto", name))
        raise EpisodeError(
            f"has no object masks: no {missing}",
            where=folder,
            fix='Detect objects first, or ask for the masks "none"',
        )
    return found[0]


def read_masks(
    folder: pathlib.Path, source: str, frames: Sequence[int], size: tuple[int, int]
) -> tuple[tuple[str, ...], Bool[NumpyArray, "t o h w"]]:
    """Names of all objects in these frames, sorted, and their masks.

    An object that is not detected in a frame has an empty mask there.

    Args:
      folder: the episode.
      source: `perception` or `dinox`.
      frames: frame numbers.
      size: (height, width) of the wrist camera's frames.

    Raises:
      EpisodeError: detections of a frame are missing or damaged, or a mask has another size.
    """
    reader = _perception if source == "perception" else _dinox
    found = list(reader(folder, frames))
    objects = sorted({name for _, name, _, _ in found})
    masks = np.zeros((len(frames), len(objects), *size), np.bool_)
    for place, name, mask, where in found:
        if mask.shape != size:
            raise EpisodeError(
                f"mask of {name!r} is {mask.shape}, the frames are {size} pixels",
                where=where,
                fix=_DETECT_AGAIN,
            )
        masks[place, objects.index(name)] |= mask
    return tuple(objects), masks


Found = tuple[int, str, np.ndarray, pathlib.Path]  # place in `frames`, name, (h, w) bool, file


def _dinox(folder: pathlib.Path, frames: Sequence[int]) -> Iterator[Found]:
    path = folder / DINOX
    detections = read_json(path)
    for place, frame in enumerate(frames):
        entries = detections.get(str(frame)) if isinstance(detections, dict) else None
        if not isinstance(entries, list):
            raise EpisodeError(f"has no detections of frame {frame}", where=path, fix=_DETECT_AGAIN)
        for number, entry in enumerate(entries):
            where = f"{path}, frame {frame}, entry {number}"
            name, file, score = _entry(entry, where)
            if not file or not (math.isfinite(score) and score > 0):
                continue
            mask = folder / MASKS / pathlib.PurePosixPath(file).name
            yield place, name, _load_mask(mask), mask


def _entry(entry: Any, where: str) -> tuple[str, str, float]:
    """Category, mask file (or empty) and score of a detection."""
    try:
        name, file, score = entry["category"], entry.get("mask_file") or "", float(entry["score"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EpisodeError(
            f"is no detection with category and score: {error!r}", where=where, fix=_DETECT_AGAIN
        ) from error
    if not isinstance(name, str) or not name.strip() or not isinstance(file, str):
        raise EpisodeError(
            f"category {name!r} or mask file {file!r} is no text", where=where, fix=_DETECT_AGAIN
        )
    return name.strip(), file, score


def _load_mask(path: pathlib.Path) -> NumpyArray:
    try:
        mask = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise EpisodeError("mask is missing", where=path, fix=_DETECT_AGAIN) from error
    except (OSError, ValueError, EOFError) as error:
        raise EpisodeError(f"mask is damaged: {error}", where=path, fix=_DETECT_AGAIN) from error
    if not isinstance(mask, np.ndarray) or mask.ndim != 2:
        raise EpisodeError("is no (height, width) mask", where=path, fix=_DETECT_AGAIN)
    return _binary(mask, path)


def _binary(mask: NumpyArray, path: pathlib.Path) -> NumpyArray:
    """A mask as bool; floats are taken when all are 0 or 1, as some detectors write them."""
    floats = mask.dtype.kind == "f" and bool(((mask == 0) | (mask == 1)).all())
    if mask.dtype.kind not in "biu" and not floats:
        raise EpisodeError(
            f"holds {mask.dtype} values that say neither yes nor no", where=path, fix=_THRESHOLD
        )
    return mask.astype(np.bool_)


def perception_file(folder: pathlib.Path, frame: int) -> pathlib.Path:
    """Detections of one frame in the later layout."""
    return folder / PERCEPTION / f"{frame:05d}" / "perception.h5"


def _perception(folder: pathlib.Path, frames: Sequence[int]) -> Iterator[Found]:
    for place, frame in enumerate(frames):
        path = perception_file(folder, frame)
        if not path.is_file():
            raise EpisodeError("detections are missing", where=path, fix=_DETECT_AGAIN)
        try:
            with h5py.File(path, "r") as file:
                masks = np.asarray(file["wrist/masks"])
                labels = np.asarray(file["wrist/bboxes/labels"]).tolist()
        except (OSError, KeyError) as error:
            raise EpisodeError(
                f"detections are damaged: {error}", where=path, fix=_DETECT_AGAIN
            ) from error
        names = [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in labels]
        if len(names) != len(masks) or (len(masks) and masks.ndim != 3):
            raise EpisodeError(
                f"{len(names)} labels for masks of shape {masks.shape}",
                where=path,
                fix=_DETECT_AGAIN,
            )
        for name, mask in zip(names, masks, strict=True):
            yield place, name.strip(), _binary(mask, path), path


def read_roles(folder: pathlib.Path, objects: Sequence[str], prompt: str) -> dict[str, str]:
    """Role of every object: of `object_matching.yaml`, else by the prompt; see `roles_by_prompt`.

    Raises:
      EpisodeError: the file is damaged or has an unknown role.
    """
    for path in (folder / MATCHING, folder / PERCEPTION / MATCHING):
        if path.is_file():
            matched = _matching(path)
            return {name: matched.get(_plain(name), "other") for name in objects}
    return roles_by_prompt(objects, prompt)


def _matching(path: pathlib.Path) -> dict[str, str]:
    """Plain name -> role."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise EpisodeError(f"is no YAML: {error}", where=path, fix="Repair the file") from error
    if not isinstance(content, dict):
        raise EpisodeError("holds no mapping", where=path, fix="Write grasp: [duck]")
    pairs: list[tuple[Any, Any]] = []
    if set(content) <= set(MATCHED):
        for role, names in content.items():
            pairs += [(name, role) for name in (names if isinstance(names, list) else [names])]
    else:
        pairs = list(content.items())
    for name, role in pairs:
        if role not in MATCHED:
            raise EpisodeError(
                f"{name!r} has the role {role!r}", where=path, fix=f"Use one of {(*MATCHED,)}"
            )
    return {_plain(str(name)): MATCHED[role] for name, role in pairs if name is not None}


def roles_by_prompt(objects: Sequence[str], prompt: str) -> dict[str, str]:
    """Roles from the words of the prompt.

    The prompt names an object where its words stand side by side; where names overlap (duck, duck
    toy) the longest counts. What is named is the `target`; a `place` when it follows "onto",
    "to" and the like, or "in" or "on" after "put" or the like; `other` when it follows "from", or
    says where the target is ("pick the cup on the table"). Every other object is
    a `distractor`. When the prompt names none of them, all are `other`: nothing is known.
    """
    text = f" {_plain(prompt)} "
    roles = dict.fromkeys(objects, "distractor")
    moves = re.search(_MOVING, text) is not None
    for name in sorted(objects, key=lambda name: -len(_plain(name).split())):
        words = _plain(name).split()
        orders = itertools.permutations(words) if len(words) <= 3 else [words]
        either = "|".join(re.escape(" ".join(order)) for order in orders)
        found = re.search(rf"(?P<word>{_WHERE})?(?<= )(?P<name>{either})(?= )", text)
        if found is None or not words:
            continue
        relation = (found["word"] or "").split(" ")[0]
        if relation in _FROM or (relation in _AT and not moves):
            roles[name] = "other"
        else:
            roles[name] = "place" if relation else "target"
        # A shorter name within this one is not meant; what stands between words stays.
        text = text[: found.start("name")] + "~" + text[found.end("name") :]
    known = {"target", "place"} & set(roles.values())
    return roles if known else dict.fromkeys(objects, "other")


def _plain(text: str) -> str:
    """Lower case words with single spaces."""
    return " ".join(re.sub(r"[^\w\s]|_", " ", text.lower()).split())
