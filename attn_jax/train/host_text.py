"""Values of the host as JSON text, exactly: nested dicts and lists, numbers, bytes, NumPy arrays.

Usage:

    json_value(json_text({"position": 3, "losses": np.zeros(4)}))
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def json_text(value: Any) -> str:
    """JSON text of nested dicts, lists, numbers, strings, bytes and NumPy arrays; exact."""

    def encode(x: Any) -> Any:
        if isinstance(x, bytes):
            return {"__bytes__": base64.b64encode(x).decode()}
        if isinstance(x, (np.ndarray, np.generic, jax.Array)):
            x = np.asarray(x)
            raw = base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()
            return {"__array__": [x.dtype.str, list(x.shape), raw]}
        if isinstance(x, Mapping):
            return {str(k): encode(v) for k, v in x.items()}
        if isinstance(x, (list, tuple)):
            return [encode(v) for v in x]
        return x

    return json.dumps(encode(value))


def json_value(text: str) -> Any:
    """Inverse of `json_text`; tuples come back as lists."""

    def decode(x: dict[str, Any]) -> Any:
        if list(x) == ["__bytes__"]:
            return base64.b64decode(x["__bytes__"])
        if list(x) == ["__array__"]:
            dtype, shape, raw = x["__array__"]
            flat = np.frombuffer(base64.b64decode(raw), np.dtype(dtype))
            return flat.reshape(shape).copy()
        return x

    return json.loads(text, object_hook=decode)
