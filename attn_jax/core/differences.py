"""What distinguishes two configurations or two sets of tensors, one line per difference.

Usage:

    config_differences({"seed": 0}, {"seed": 1})          # ["seed: was 0, now 1"]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def config_hash(config: Any) -> str:
    """Short stable hash of a JSON-able configuration."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_differences(
    saved: Any, wanted: Any, *, ignore: Sequence[str] = (), prefix: str = ""
) -> list[str]:
    """One line per differing field of two nested mappings, except fields named in `ignore`."""
    if prefix in ignore:
        return []
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        lines = []
        for key in sorted({*saved, *wanted}, key=str):
            name = f"{prefix}.{key}" if prefix else str(key)
            if name in ignore:
                continue
            if key not in saved:
                lines.append(f"{name}: not in the saved configuration, now {wanted[key]!r}")
            elif key not in wanted:
                lines.append(f"{name}: was {saved[key]!r}, not in this configuration")
            else:
                lines += config_differences(saved[key], wanted[key], ignore=ignore, prefix=name)
        return lines
    same = json.dumps(saved, default=str) == json.dumps(wanted, default=str)
    return [] if same else [f"{prefix}: was {saved!r}, now {wanted!r}"]


def tensor_differences(
    saved: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """One line per tensor that is missing, unexpected or of another shape or dtype."""
    stored = {name: leaf for part in saved.values() for name, leaf in part.items()}
    needed = {name: leaf for part in wanted.values() for name, leaf in part.items()}
    lines = []
    for name in sorted({*stored, *needed}):
        if name not in stored:
            lines.append(f"missing tensor {name}: {_describe(needed[name])}")
        elif name not in needed:
            lines.append(f"unexpected tensor {name}: {_describe(stored[name])}")
        elif tuple(stored[name].shape) != tuple(needed[name].shape):
            lines.append(
                f"shape of {name}: saved {tuple(stored[name].shape)}, "
                f"needed {tuple(needed[name].shape)}"
            )
        elif np.dtype(stored[name].dtype) != np.dtype(needed[name].dtype):
            lines.append(
                f"dtype of {name}: saved {stored[name].dtype}, needed {needed[name].dtype}"
            )
    return lines


def _describe(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
