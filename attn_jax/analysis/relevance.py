"""Where information comes from through many layers: rollout, flow, gradient times attention.

Rollout and flow (Abnar and Zuidema, 2020) mix every layer with the identity, for the residual
stream, then multiply the layers, or find the largest flow that their weights let through.
Gradient-times-attention relevance (Chefer, Gur and Wolf, 2021) adds, layer by layer, the positive
part of gradient times attention, averaged over heads; for a policy that denoises it runs on through
the steps, whose residual is the chunk that every step corrects. `probe.relevance` measures gradient
times attention of every edge.

Axis names: layer, head, q k tokens (n of each where square), H action tokens, p prefix tokens.

    joint = full_graph(prefix, suffix)                     # (layer, p + H, p + H), heads joined
    rollout(joint)[p:, :p]                                 # actions on images and text
    relevance = denoise_relevance(edges)                   # (H, p)
"""

from __future__ import annotations

import numpy as np
import scipy

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Float, NumpyArray

Square = Float[NumpyArray, "layer n n"]
_UNITS = 1_000_000_000  # capacities of a flow are whole numbers of 1e-9


def full_graph(
    prefix: Float[NumpyArray, "layer p p"], suffix: Float[NumpyArray, "layer H k"]
) -> Float[NumpyArray, "layer n n"]:
    """One square matrix per layer from a prefix, which sees itself, and a suffix, which sees all.

    Raises:
      ConfigError: sizes that do not fit each other.
    """
    layers, tokens, _ = prefix.shape
    actions = suffix.shape[1]
    if suffix.shape != (layers, actions, tokens + actions):
        raise ConfigError(f"suffix is {suffix.shape}, prefix {prefix.shape}")
    out = np.zeros((layers, tokens + actions, tokens + actions))
    out[:, :tokens, :tokens] = prefix
    out[:, tokens:] = suffix
    return out


def pool(maps: Square, members: Float[NumpyArray, "g n"]) -> Float[NumpyArray, "layer g g"]:
    """Attention between groups of tokens: mean over a group's rows of its mass on each group.

    Rows still sum to 1 when the groups cover every token.
    """
    weights = members / members.sum(1, keepdims=True)
    return np.einsum("gq,lqk,fk->lgf", weights, maps.astype(np.float64), members)


def with_residual(maps: Square, share: float = 0.5) -> Square:
    """Rows mixed with the identity by `share` and renormalised; rows without mass stay identity."""
    if not 0 <= share <= 1:
        raise ConfigError(f"residual share {share} is outside [0, 1]")
    mixed = (1 - share) * maps.astype(np.float64) + share * np.eye(maps.shape[-1])
    mass = mixed.sum(-1, keepdims=True)
    return np.where(mass > 0, mixed / np.where(mass > 0, mass, 1.0), np.eye(maps.shape[-1]))


def rollout(maps: Square, *, residual: float = 0.5) -> Float[NumpyArray, "n n"]:
    """Product of the layers, each mixed with the identity; rows sum to 1.

    Args:
      maps: attention of every layer from the first, heads joined.
      residual: share of the identity.
    """
    out = np.eye(maps.shape[-1])
    for layer in with_residual(maps, residual):
        out = layer @ out
    return out


def flow(maps: Square, query: int, *, residual: float = 0.5) -> Float[NumpyArray, "n"]:
    """Largest flow from one token of the last layer to each input token, in [0, 1].

    The capacity of an edge is its attention weight, mixed with the identity, to 1e-9. A flow to one
    input is computed regardless of the others, so the row does not sum to 1. The cost grows with
    the fourth power of the tokens: pool them first.

    Raises:
      ConfigError: more than 256 tokens, or a query that is not one of them.
    """
    layers, tokens, _ = maps.shape
    if tokens > 256 or not 0 <= query < tokens:
        raise ConfigError(
            f"flow of token {query} among {tokens}", fix="Pool the tokens into groups, at most 256"
        )
    mixed = np.rint(with_residual(maps, residual) * _UNITS).astype(np.int32)
    nodes = (layers + 1) * tokens
    parts = []
    for number in range(layers):  # edges run from layer number + 1 down to number
        row, column = np.nonzero(mixed[number])
        parts.append(
            (row + (number + 1) * tokens, column + number * tokens, mixed[number, row, column])
        )
    rows, columns, data = (np.concatenate(part) for part in zip(*parts, strict=True))
    graph = scipy.sparse.csr_array((data, (rows, columns)), shape=(nodes, nodes))
    start = layers * tokens + query
    found = [
        scipy.sparse.csgraph.maximum_flow(graph, start, sink).flow_value for sink in range(tokens)
    ]
    return np.array(found, np.float64) / _UNITS


def positive_edges(edges: Float[NumpyArray, "*b head q k"]) -> Float[NumpyArray, "*b q k"]:
    """Mean over heads of the positive part of gradient times attention."""
    return np.maximum(edges.astype(np.float64), 0.0).mean(-3)


def prefix_relevance(
    edges: Float[NumpyArray, "layer head p p"],
) -> Float[NumpyArray, "entry p p"]:
    """Relevance of the input tokens for every token as it enters each layer, and after the last.

    Args:
      edges: gradient times attention of every edge.

    Returns:
      (layer + 1, p, p); the first is the identity.
    """
    weights = positive_edges(edges)
    out = [np.eye(edges.shape[-1])]
    for layer in weights:
        out.append(out[-1] + layer @ out[-1])
    return np.stack(out)


def denoise_relevance(
    edges: Float[NumpyArray, "denoise layer head H k"],
    prefix: Float[NumpyArray, "entry p p"] | None = None,
) -> Float[NumpyArray, "H p"]:
    """Relevance of prefix tokens for the actions, gathered over every layer of every step.

    Args:
      edges: gradient times attention, of the actions on prefix and actions, in the order of the
        steps: one call of the record `suffix.relevance` of `probe.relevance`.
      prefix: from `prefix_relevance`: what the prefix tokens themselves are made of as they enter
        each layer; None takes them as they are.

    Returns:
      (H, p), non-negative, no unit: only proportions mean something.

    Raises:
      ConfigError: sizes that do not fit.
    """
    weights = positive_edges(edges)
    steps, layers, actions, keys = weights.shape
    tokens = keys - actions
    if tokens < 1 or (prefix is not None and prefix.shape[1:] != (tokens, tokens)):
        raise ConfigError(f"{actions} actions with {keys} keys do not fit the prefix")
    if prefix is not None and len(prefix) < layers:
        raise ConfigError(f"prefix relevance of {len(prefix)} entries for {layers} layers")
    on_prefix, on_self = np.zeros((actions, tokens)), np.eye(actions)
    for step in range(steps):
        for layer in range(layers):
            seen, own = weights[step, layer, :, :tokens], weights[step, layer, :, tokens:]
            through = seen if prefix is None else seen @ prefix[layer]
            on_prefix, on_self = (
                on_prefix + through + own @ on_prefix,
                on_self + own @ on_self,
            )
    return on_prefix
