"""The weights of LeRobot's Pi0.5 as ours, twice in memory or once for both.

params = our_weights(policy, config, shared=True)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import torch

from attn_jax.bridge import keymap
from attn_jax.bridge.pi05_table import EXPERT_LM_HEAD, LM_HEAD, table
from attn_jax.core.typing import NumpyArray
from attn_jax.models.pi05 import Pi05Config
from attn_jax.models.pi05.model import param_shapes


class Taken(Mapping[str, NumpyArray]):
    """The weights of a torch module by name; reading one with `take` leaves the module without it.

    Args:
      module: whose they are.
      take: empty every tensor of the module as it is read, for weights that fit only once.
    """

    def __init__(self, module: torch.nn.Module, *, take: bool):
        self._tensors = module.state_dict(keep_vars=True)
        self._take = take

    def __getitem__(self, name: str) -> NumpyArray:
        tensor = self._tensors[name]
        array = _numpy(tensor)
        if self._take:
            tensor.data = torch.empty(0, dtype=tensor.dtype)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def our_weights(policy: torch.nn.Module, config: Pi05Config, *, shared: bool) -> Any:
    """The weights of LeRobot's policy as ours, on the device.

    With `shared` the policy's own are let go one by one, and afterwards are views of ours.
    """
    rows = table(config.architecture)
    ignored = [keymap.Ignored(name, "unused") for name in (LM_HEAD, EXPERT_LM_HEAD)]
    rules = [*(row.rule for row in rows), *ignored]
    tensors = Taken(policy, take=shared)
    params, report = keymap.convert(rules, tensors, param_shapes(config))
    report.require()
    if shared:
        flat = flax.traverse_util.flatten_dict(params, sep="/")
        theirs = policy.state_dict(keep_vars=True)
        for row in rows:
            for name, path in row.names():
                # `to` copies only what ours keeps in another precision.
                theirs[name].data = _tensor(row.store(flat[path])).to(theirs[name].dtype)
    return jax.device_put(params)


def _numpy(tensor: torch.Tensor) -> NumpyArray:
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def _tensor(array: NumpyArray) -> torch.Tensor:
    """The same memory as a tensor."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
