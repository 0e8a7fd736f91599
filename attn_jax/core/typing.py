"""Array types and the axis letters used in every signature.

| letter | axis                    | letter | axis                          |
|--------|-------------------------|--------|-------------------------------|
| b      | batch                   | q k    | query tokens, key tokens      |
| t      | frames in time          | d      | features                      |
| n      | points                  | gh gw  | patch grid, rows and columns  |
| l      | layer                   | H      | action horizon                |
| h      | attention head          | A      | action dimensions             |

    def attend(q: Float[Array, "b q h d"], ...) -> Float[Array, "b q h d"]: ...
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt8

PathLike: TypeAlias = str | os.PathLike[str]
Params: TypeAlias = PyTree[Array]
Batch: TypeAlias = Mapping[str, Any]
Metrics: TypeAlias = Mapping[str, Any]
PRNGKey: TypeAlias = jax.Array
NumpyArray: TypeAlias = np.ndarray
AnyArray: TypeAlias = jax.Array | np.ndarray  # on the device or on the host

__all__ = [
    "AnyArray",
    "Array",
    "Batch",
    "Bool",
    "Float",
    "Int",
    "Metrics",
    "NumpyArray",
    "PRNGKey",
    "Params",
    "PathLike",
    "PyTree",
    "Shaped",
    "UInt8",
]
