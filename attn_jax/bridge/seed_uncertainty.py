"""`episode_00000_uncertainty.pt` of an earlier Pi0.5 tool: what the file says, without its maps.

Such a file has a 16x16 map and its mean for every camera and prediction: how unfamiliar the picture
was to the policy. That is no attention, so nothing here turns it into a record; metadata are read,
and of arrays their shapes. Positions in lists and under numbers are counted, written `[]`.

    found = read_uncertainty("episode_00003_uncertainty.pt")
    found["episode"], found["metadata"], found["fields"]["rollout_steps[].maps.agentview"]
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from attn_jax.bridge.torch_weights import read_torch_file
from attn_jax.core.errors import RecordError
from attn_jax.core.typing import PathLike

UNCERTAINTY_FILE = re.compile(r"episode_(\d+)_uncertainty\.pt")


def read_uncertainty(path: PathLike) -> dict[str, Any]:
    """Metadata of a file, JSON-compatible.

    Returns:
      `kind`; `episode`, which the file or else its name says; `metadata`, its plain values; and
      `fields`, place -> `count` and, of arrays, `shape`.

    Raises:
      RecordError: a file without named fields.
      ConfigError: torch is not installed.
      CheckpointError: no such file, or none that torch can read weights-only.
    """
    path = pathlib.Path(path)
    data = read_torch_file(path)
    if not isinstance(data, Mapping):
        raise RecordError(
            f"is no file of uncertainty maps: it holds a {type(data).__name__} without names",
            where=path,
        )
    inner = data.get("metadata")
    metadata = {
        str(key): value
        for part in (data, inner if isinstance(inner, Mapping) else {})
        for key, value in part.items()
        if _is_plain(value)
    }
    name = UNCERTAINTY_FILE.fullmatch(path.name)
    fields: dict[str, dict[str, Any]] = {}
    for place, shape in _fields(data, ""):
        entry = fields.setdefault(
            place, {"count": 0, **({} if shape is None else {"shape": shape})}
        )
        entry["count"] += 1
    return {
        "kind": "uncertainty maps",
        "episode": metadata.get("episode_index", int(name[1]) if name else None),
        "metadata": metadata,
        "fields": fields,
    }


def refused(path: PathLike) -> RecordError:
    """The error that tells what a file is which was taken for attention."""
    return RecordError(
        "holds uncertainty maps, not attention: only its metadata can be read",
        where=path,
        fix="Look at it with `launch.attention inspect`; convert episode_*_attention.pt instead",
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, bool, int, float))


def _fields(node: Any, place: str) -> Iterator[tuple[str, list[int] | None]]:
    """Place and shape (None for a plain value) of everything below a node."""
    if isinstance(node, Mapping):
        for key, child in node.items():
            inside = f"{place}.{key}" if place else str(key)
            yield from _fields(child, f"{place}[]" if isinstance(key, int) else inside)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _fields(child, f"{place}[]")
    else:
        yield place, None if _is_plain(node) else [*map(int, getattr(node, "shape", ()))]
