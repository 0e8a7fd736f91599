"""Names and shapes: LeRobot's Pi0.5 tensors against the parameters of `Pi05`.

Every row can be read in both directions, so the same table loads a checkpoint and writes one.

    rules = [row.rule for row in table(architecture)]         # for keymap.convert
    row.store(kernel)                                         # our array -> theirs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from attn_jax.bridge import keymap
from attn_jax.bridge.keymap import Rule
from attn_jax.core.typing import NumpyArray
from attn_jax.models.pi05.config import Architecture

PALIGEMMA = "model.paligemma_with_expert.paligemma"
EXPERT = "model.paligemma_with_expert.gemma_expert"
EMBEDDING = f"{PALIGEMMA}.model.language_model.embed_tokens.weight"
LM_HEAD = f"{PALIGEMMA}.lm_head.weight"
EXPERT_LM_HEAD = f"{EXPERT}.lm_head.weight"


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor, or one per layer.

    Attributes:
      rule: how it is loaded.
      store: our array as theirs, the inverse of the rule's transform.
      count: layers that `{i}` runs over; None for a name without `{i}`.
    """

    rule: Rule
    store: Callable[[NumpyArray], NumpyArray]
    count: int | None = None

    def names(self) -> list[tuple[str, str]]:
        """(their name, our path) of every layer."""
        assert isinstance(self.rule.paths, str)
        if self.count is None:
            return [(self.rule.source, self.rule.paths)]
        return [
            (self.rule.source.replace("{i}", str(i)), self.rule.paths.replace("{i}", str(i)))
            for i in range(self.count)
        ]


def table(sizes: Architecture) -> list[Row]:
    """The rows of a model of these sizes; its two `lm_head`s are not used and not here."""
    vision_head_dim = sizes.vision_width // sizes.vision_heads
    tower = f"{PALIGEMMA}.model.vision_tower.vision_model"
    language = f"{PALIGEMMA}.model.language_model"
    rows = [
        _keep(EMBEDDING, "embedding"),
        _keep(f"{language}.norm.weight", "backbone/final_norm/scale"),
        *_linear(f"{EXPERT}.model.norm.dense", "expert/final_norm/dense"),
        *_linear(f"{PALIGEMMA}.model.multi_modal_projector.linear", "projector"),
        Row(
            Rule(
                f"{tower}.embeddings.patch_embedding.weight",
                "vision/patch_embed/kernel",
                keymap.convolution,
            ),
            lambda x: x.transpose(3, 2, 0, 1),
        ),
        _keep(f"{tower}.embeddings.patch_embedding.bias", "vision/patch_embed/bias"),
        _keep(f"{tower}.embeddings.position_embedding.weight", "vision/position_embedding"),
        *_layer_norm(f"{tower}.post_layernorm", "vision/norm"),
    ]
    for theirs, ours in (
        ("action_in_proj", "action_in"),
        ("action_out_proj", "action_out"),
        ("time_mlp_in", "time_in"),
        ("time_mlp_out", "time_out"),
    ):
        rows += _linear(f"model.{theirs}", ours)
    block = "vision/transformer/block_{i}"
    layer = f"{tower}.encoder.layers.{{i}}"
    vision = [
        *_layer_norm(f"{layer}.layer_norm1", f"{block}/norm1"),
        *_layer_norm(f"{layer}.layer_norm2", f"{block}/norm2"),
        *_linear(f"{layer}.mlp.fc1", f"{block}/mlp/fc1"),
        *_linear(f"{layer}.mlp.fc2", f"{block}/mlp/fc2"),
        _merged(
            f"{layer}.self_attn.out_proj.weight", f"{block}/attention/out/kernel", vision_head_dim
        ),
        _keep(f"{layer}.self_attn.out_proj.bias", f"{block}/attention/out/bias"),
    ]
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        source, path = f"{layer}.self_attn.{theirs}", f"{block}/attention/{ours}"
        vision.append(_split(f"{source}.weight", f"{path}/kernel", vision_head_dim))
        vision.append(
            Row(
                Rule(f"{source}.bias", f"{path}/bias", keymap.split_heads(1, vision_head_dim)),
                lambda x: x.reshape(-1),
            )
        )
    rows += [dataclasses.replace(row, count=sizes.vision_depth) for row in vision]
    for source, stack in (
        (f"{language}.layers.{{i}}", "backbone"),
        (f"{EXPERT}.model.layers.{{i}}", "expert"),
    ):
        rows += [
            dataclasses.replace(row, count=sizes.depth)
            for row in _gemma_layer(source, f"{stack}/layer_{{i}}", sizes.head_dim)
        ]
    return rows


def _gemma_layer(source: str, path: str, head_dim: int) -> list[Row]:
    rows = [_merged(f"{source}.self_attn.o_proj.weight", f"{path}/out/kernel", head_dim)]
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        rows.append(
            _split(f"{source}.self_attn.{theirs}.weight", f"{path}/{ours}/kernel", head_dim)
        )
    for name in ("gate", "up", "down"):
        rows.append(_linear(f"{source}.mlp.{name}_proj", f"{path}/{name}")[0])
    for theirs, ours in (
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "mlp_norm"),
    ):
        if path.startswith("expert"):
            rows += _linear(f"{source}.{theirs}.dense", f"{path}/{ours}/dense")
        else:
            rows.append(_keep(f"{source}.{theirs}.weight", f"{path}/{ours}/scale"))
    return rows


def _keep(source: str, path: str) -> Row:
    return Row(Rule(source, path), lambda x: x)


def _linear(source: str, path: str) -> list[Row]:
    """Weight, then bias."""
    weight = Row(Rule(f"{source}.weight", f"{path}/kernel", keymap.transpose), lambda x: x.T)
    return [weight, _keep(f"{source}.bias", f"{path}/bias")]


def _layer_norm(source: str, path: str) -> list[Row]:
    return [_keep(f"{source}.weight", f"{path}/scale"), _keep(f"{source}.bias", f"{path}/bias")]


def _split(source: str, path: str, head_dim: int) -> Row:
    """(heads * head_dim, in) as (in, heads, head_dim)."""
    return Row(
        Rule(source, path, keymap.split_heads(1, head_dim)),
        lambda x: x.reshape(x.shape[0], -1).T,
    )


def _merged(source: str, path: str, head_dim: int) -> Row:
    """(out, heads * head_dim) as (heads, head_dim, out)."""
    return Row(
        Rule(source, path, keymap.merge_heads(head_dim)),
        lambda x: x.reshape(-1, x.shape[-1]).T,
    )
