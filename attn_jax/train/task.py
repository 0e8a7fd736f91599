"""Task: what `fit` needs to know about a model, a loss and their evaluation.

Canvas, Pi0.5, PointFlow and the manipulation stages are Tasks. A Task is pure: everything that
changes lives in parameters, the batch and the random key.

    class Regression:
        evaluations = {}
        def init(self, rng): ...
        def loss(self, params, batch, rng): return loss, Aux(metrics={"mse": loss})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from attn_jax.core.training import Aux as Aux
from attn_jax.core.typing import Batch, Metrics, Params, PRNGKey

# (params) -> named scalars; reads its own data and compiles its own program on first use.
Evaluation = Callable[[Params], Metrics]


@runtime_checkable
class Task(Protocol):
    """A trainable problem."""

    @property
    def evaluations(self) -> Mapping[str, Evaluation]:
        """Evaluations by name; `fit` logs their scalars as `<name>/<metric>`."""
        ...

    def init(self, rng: PRNGKey) -> Params:
        """Fresh parameters, float32."""
        ...

    def loss(self, params: Params, batch: Batch, rng: PRNGKey) -> tuple[Any, Aux]:
        """Scalar loss (mean over the batch) and what goes with it; traced by jit and grad."""
        ...
