"""The canvas encoder-decoder in plain torch: reference for speed and for parity.

Names of modules and parameters are those of the original checkpoints (`blocks.0.attn.qkv.weight`),
so that its state dict also stands in for one. Axis names: b batch, n tokens, d features, p values
of a patch.

    model = TorchCanvas(CanvasGeometry((224, 224)))
    patches = model(canvas)                    # canvas (b, 3, h, w) float32 -> (b, m, p) masked
    patches
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.nn.positions import sincos_grid


class _Attention(nn.Module):
    """Self-attention with a packed (3, heads, head_dim) projection."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(out.transpose(1, 2).reshape(b, n, d))


class _Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _Mlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, patch: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, stride=patch)

    def forward(self, canvas: Tensor) -> Tensor:
        return self.proj(canvas).flatten(2).transpose(1, 2)


class TorchCanvas(nn.Module):
    """Masked autoencoder with fixed `compat` positions; the target frame is fully masked.

    Args:
      geometry: sizes of the canvas.
      dim, depth: width and blocks of the encoder.
      decoder_dim, decoder_depth: width and blocks of the decoder.
      head_dim: features per head.
      mlp_ratio: hidden width of the MLP over the width.
    """

    def __init__(
        self,
        geometry: CanvasGeometry,
        *,
        dim: int = 256,
        depth: int = 5,
        decoder_dim: int = 256,
        decoder_depth: int = 5,
        head_dim: int = 64,
        mlp_ratio: int = 4,
    ):
        super().__init__()
        self.geometry = geometry
        self.patch_embed = _PatchEmbed(geometry.patch, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.pos_embed = nn.Parameter(_table(geometry, dim), requires_grad=False)
        self.decoder_pos_embed = nn.Parameter(_table(geometry, decoder_dim), requires_grad=False)
        self.blocks = nn.Sequential(
            *(_Block(dim, dim // head_dim, dim * mlp_ratio) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.decoder_blocks = nn.Sequential(
            *(
                _Block(decoder_dim, decoder_dim // head_dim, decoder_dim * mlp_ratio)
                for _ in range(decoder_depth)
            )
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, geometry.patch_dim)
        visible = torch.from_numpy(geometry.visible_patches())
        self.register_buffer("visible", visible, persistent=False)
        masked = torch.from_numpy(geometry.target_patches())
        self.register_buffer("masked", masked, persistent=False)

    def forward(self, canvas: Tensor, *, all_patches: bool = False) -> Tensor:
        """Paints patches of `canvas` (b, 3, h, w): the masked ones (b, m, p), or all (b, n, p)."""
        batch = canvas.shape[0]
        x = (self.patch_embed(canvas) + self.pos_embed[:, 1:])[:, self.visible]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1)
        x = self.blocks(torch.cat([cls, x], dim=1))
        x = self.decoder_embed(self.norm(x))
        tokens = self.mask_token.repeat(batch, 1 + self.geometry.num_patches, 1)
        tokens[:, 0] = x[:, 0]
        tokens[:, self.visible + 1] = x[:, 1:]
        x = self.decoder_blocks(tokens + self.decoder_pos_embed)[:, 1:]
        x = x if all_patches else x[:, self.masked]
        return self.decoder_pred(self.decoder_norm(x))


def _table(geometry: CanvasGeometry, dim: int) -> Tensor:
    """Position table (1, 1 + n, d) whose CLS row is zero."""
    table = torch.from_numpy(sincos_grid(geometry.grid, dim, normalised=True))
    return torch.cat([torch.zeros(1, dim), table])[None]


def patchify(canvas: Tensor, patch: int) -> Tensor:
    """Cuts (b, 3, h, w) into (b, n, p) patches; values in the order (row, column, channel)."""
    b, c, h, w = canvas.shape
    x = canvas.reshape(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, patch * patch * c)


def hybrid_loss(prediction: Tensor, target: Tensor, alpha: float, beta: float) -> Tensor:
    """Mixes MSE (share alpha) with focal loss; focal weights exp(beta e) have no gradient."""
    e = (prediction - target) ** 2
    plain = e.mean()
    if beta <= 0:
        return plain
    w = torch.exp(beta * e).detach()
    return alpha * plain + (1 - alpha) * (w * e).sum() / (w.sum() + 1e-8)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of AdamW: names with `bias` or `norm` are not decayed."""

    def named(decayed: bool) -> Iterator[Tensor]:
        for name, parameter in model.named_parameters():
            plain = any(part in name for part in ("bias", "norm"))
            if parameter.requires_grad and plain != decayed:
                yield parameter

    return [
        {"params": list(named(True)), "weight_decay": weight_decay},
        {"params": list(named(False)), "weight_decay": 0.0},
    ]


def randomise(model: nn.Module, seed: int) -> None:
    """Gives every trainable parameter random values, biases and norms too; for parity tests."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim > 1:
                # Predictions within a few units, or the focal weights overflow.
                gain = 0.3 if "decoder_pred" in name else 1.0
                parameter.copy_(gain * noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(0.1 * noise)
