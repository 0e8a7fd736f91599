"""LoRA for Pi0.5: low-rank corrections beside frozen projections.

A projection y = x W becomes y = x W + (alpha / rank) (x A) B. The pairs live in the parameter tree
under `lora`, in the places of the projections they correct; B starts as zeros, so a fresh tree
predicts exactly as without.

Axis names: i input axes, r rank, o output axes of a projection.

    params = {**params, "lora": init_lora(LoraConfig(rank=8), params, key)}
    with applied(config, params["lora"]):
        model.apply({"params": without_lora(params)}, ...)
    plain = merged(config, params)                    # an ordinary tree, for export
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import PRNGKey

LORA = "lora"

# Input axes of a projection's kernel; the others have one.
_TWO_INPUTS = re.compile(r"(^|/)out$")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Which projections are corrected, and how.

    Attributes:
      rank: r.
      alpha: the correction counts alpha / rank.
      targets: regular expression that the whole path of a projection must match, for example
        `expert/layer_0/query`. The default is what LeRobot adapts: queries and values of the
        action expert, and the projections of actions and time.

    Raises:
      ConfigError: a rank below 1, or no regular expression.
    """

    rank: int
    alpha: float = 16.0
    targets: str = r"expert/layer_\d+/(query|value)|action_in|action_out|time_in|time_out"

    def __post_init__(self):
        if self.rank < 1:
            raise ConfigError(f"must be at least 1, got {self.rank}", where="lora.rank")
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"must be positive and finite, got {self.alpha}", where="lora.alpha")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ConfigError(f"is no pattern: {error}", where="lora.targets") from error

    @property
    def scale(self) -> float:
        """Factor of the correction."""
        return self.alpha / self.rank


def init_lora(config: LoraConfig, params: Mapping[str, Any], rng: PRNGKey) -> dict[str, Any]:
    """Fresh pairs `a` (i..., r), normal with deviation i^-0.5, and `b` (r, o...), zeros; float32.

    Args:
      config: targets and rank.
      params: parameters, NumPy or JAX arrays, or their shapes, without `lora`.
      rng: key.

    Raises:
      ConfigError: nothing matches the targets.
    """
    pairs: dict[str, Any] = {}
    kernels = _targets(config, params)
    keys = jax.random.split(rng, len(kernels))
    for key, (path, kernel) in zip(keys, kernels.items(), strict=True):
        inputs, outputs = _split(path, kernel.shape)
        a = jax.random.normal(key, (*inputs, config.rank)) * math.prod(inputs) ** -0.5
        pairs[f"{path}/a"] = a
        pairs[f"{path}/b"] = jnp.zeros((config.rank, *outputs))
    return flax.traverse_util.unflatten_dict(pairs, sep="/")


def without_lora(params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree without the pairs."""
    return {name: value for name, value in params.items() if name != LORA}


@contextlib.contextmanager
def applied(config: LoraConfig | None, pairs: Mapping[str, Any] | None) -> Iterator[None]:
    """Corrects the projections of models that are applied inside; None corrects nothing."""
    if config is None or pairs is None:
        yield
        return
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(dict(pairs), sep="/")
    scale = config.scale

    def corrected(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        path = "/".join(context.module.path)
        if context.method_name != "__call__" or f"{path}/a" not in flat:
            return out
        x, a, b = args[0], flat[f"{path}/a"], flat[f"{path}/b"]
        axes = a.ndim - 1
        low = jnp.tensordot(x.astype(a.dtype), a, axes=axes)
        return out + (scale * jnp.tensordot(low, b, axes=1)).astype(out.dtype)

    with nn.intercept_methods(corrected):
        yield


def merged(config: LoraConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with every correction added to its kernel and without the pairs.

    Predictions are the same to rounding. NumPy in, NumPy out; the sum is made in float32.

    Raises:
      ConfigError: a pair that belongs to no kernel of the tree.
    """
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(without_lora(params), sep="/")
    pairs = flax.traverse_util.flatten_dict(dict(params[LORA]), sep="/")
    for name in sorted(pairs):
        path, _, part = name.rpartition("/")
        if part != "a":
            continue
        if f"{path}/kernel" not in flat:
            raise ConfigError(f"there is no kernel of the LoRA pair {path!r}")
        kernel = np.asarray(flat[f"{path}/kernel"])
        a, b = (np.asarray(pairs[f"{path}/{part}"], np.float32) for part in ("a", "b"))
        change = np.float32(config.scale) * np.tensordot(a, b, axes=1)
        flat[f"{path}/kernel"] = (kernel.astype(np.float32) + change).astype(kernel.dtype)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _targets(config: LoraConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Path of a projection -> its kernel."""
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(dict(params), sep="/")
    kernels = {name.removesuffix("/kernel"): x for name, x in flat.items() if "/kernel" in name}
    chosen = {n: x for n, x in kernels.items() if re.fullmatch(config.targets, n)}
    if not chosen:
        raise ConfigError(
            f"no projection matches {config.targets!r}",
            where="lora.targets",
            fix=f"Projections are, for example, {', '.join([*kernels][:3])}",
        )
    return chosen


def _split(path: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Input and output axes of a kernel."""
    inputs = 2 if len(shape) == 3 and _TWO_INPUTS.search(path) else 1
    return shape[:inputs], shape[inputs:]
