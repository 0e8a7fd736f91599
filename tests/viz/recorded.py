"""A small recorded run: two cameras, an object that moves, attention that follows it.

`front` sees 90 x 160 pixels, `wrist` 100 x 100; the model's input is 224 x 224 with 16 x 16
patches. `planted` says which share of the mass lies on the object in every layer.

    run = save_run(tmp_path, calls=3)
"""

from __future__ import annotations

import pathlib

import numpy as np

from attn_jax.core import geometry
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.data.episodes import Episode, episode_folder, write_episode
from attn_jax.probe.store import RecordWriter

SIZES = {"front": (90, 160), "wrist": (100, 100)}
CAMERAS = ("front", "wrist")
LAYERS, HEADS, DENOISE, ACTIONS = (2, 5), 3, 4, 5
MASS = 0.6  # of a row on the two cameras together


def layout() -> TokenLayout:
    """Cameras, a dummy, words, padding, actions; queries are the actions."""
    cameras = [
        TokenGroup(
            f"image/{name}",
            tuple(range(256 * i, 256 * (i + 1))),
            (16, 16),
            (0, 0, 224, 224),
            name != "spare",
        )
        for i, name in enumerate((*CAMERAS, "spare"))
    ]
    words = TokenGroup("text", (768, 769), labels=("pick", "duck"))
    actions = TokenGroup("action", tuple(range(771, 771 + ACTIONS)))
    pad = TokenGroup("pad", (770,), valid=False)
    return TokenLayout(771 + ACTIONS, (*cameras, words, pad, actions), queries=actions.indices)


def duck(camera: str, call: int, calls: int) -> np.ndarray:
    """(h, w) mask: a disc that moves from left to right in the upper half."""
    height, width = SIZES[camera]
    rows, columns = np.mgrid[:height, :width]
    x = width * (0.2 + 0.6 * call / max(calls - 1, 1))
    return (rows - 0.35 * height) ** 2 + (columns - x) ** 2 < (0.14 * height) ** 2


def picture(camera: str, mask: np.ndarray) -> np.ndarray:
    """A table with a shadow to the right, and the duck in yellow."""
    height, width = SIZES[camera]
    shade = np.linspace(200, 90, width)[None, :, None] * np.linspace(1, 0.7, height)[:, None, None]
    out = shade * np.array([0.75, 0.68, 0.6])
    out[mask] = (245, 205, 40)
    return out.astype(np.uint8)


def full_maps(calls: int, call: int, seed: int = 0) -> np.ndarray:
    """(1, denoise, layer, head, action, key) float32, rows sum to 1."""
    rng = np.random.default_rng(seed + call)
    made = layout()
    out = np.zeros((1, DENOISE, len(LAYERS), HEADS, ACTIONS, made.length))
    for number, camera in enumerate(CAMERAS):
        box = geometry.letterbox(SIZES[camera], (224, 224))
        cover = box.coverage(duck(camera, call, calls), (16, 16)).ravel()
        seen = 1 - box.bar_share((16, 16)).ravel()
        for place in range(len(LAYERS)):
            for step in range(DENOISE):
                # Later steps and deeper layers look more at the object.
                share = 0.15 + 0.2 * place + 0.1 * step
                ground = seen * rng.uniform(0.5, 1.5, (HEADS, ACTIONS, 256))
                ground /= ground.sum(-1, keepdims=True)
                mixed = share * cover / cover.sum() + (1 - share) * ground
                part = slice(256 * number, 256 * number + 256)
                out[0, step, place, :, :, part] = MASS / 2 * mixed
    out[..., list(made.group("text").indices)] = 0.15
    out[..., list(made.group("action").indices)] = 0.1 / ACTIONS
    return out.astype(np.float32)


def records(calls: int, call: int, seed: int = 0, *, full: bool = True) -> list[AttentionRecord]:
    """Records of one call: whole maps (if wanted), patch maps and group masses."""
    made, maps = layout(), full_maps(calls, call, seed)
    labels = (LAYERS, tuple(range(HEADS)), tuple(range(DENOISE)))
    images = tuple(range(512))
    patch_layout = TokenLayout(made.length, made.groups, queries=made.queries, keys=images)
    names = tuple(group.name for group in made.groups)
    masses = np.stack([maps[..., made.tokens(name)].sum(-1) for name in names], axis=-1)
    out = [
        AttentionRecord(
            "suffix",
            maps[..., :512].mean(-2, keepdims=True),
            patch_layout,
            *labels,
            reduction="patch_map",
            query_names=("action",),
            complete_rows=False,
        ),
        AttentionRecord("suffix", masses, made, *labels, reduction="group_mass", key_names=names),
    ]
    return [AttentionRecord("suffix", maps, made, *labels), *out] if full else out


def episode(calls: int = 3, **info) -> Episode:
    """The observations."""
    masks = {
        name: np.stack([duck(name, call, calls) for call in range(calls)])[:, None]
        for name in CAMERAS
    }
    return Episode(
        info={"prompt": "pick the duck", "success": True, "fps": 10, **info},
        env_step=np.arange(calls) * 5,
        images={
            name: np.stack([picture(name, mask[0]) for mask in masks[name]]) for name in CAMERAS
        },
        objects=("duck",),
        roles={"duck": "target"},
        masks=masks,
        state=np.zeros((calls, 2), np.float32),
        actions=np.zeros((calls, ACTIONS, 2), np.float32),
    )


def save_run(
    run: pathlib.Path, *, calls: int = 3, number: int = 0, seed: int = 0, full: bool = True, **info
) -> pathlib.Path:
    """Writes one episode of a run, record and observations; returns the run."""
    seen = episode(calls, **info)
    with RecordWriter(run, number, codec="float32", info=seen.info) as writer:
        for call in range(calls):
            writer.append(records(calls, call, seed, full=full), env_step=int(seen.env_step[call]))
    write_episode(episode_folder(run, number), seen)
    return run
