"""`launch.attention convert`, and `inspect` of files in older formats.

python -m launch.attention convert episode_00000_attention.pt RUN
python -m launch.attention convert RUN FOLDER --to=hdf5 [--cameras=left,wrist]
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from attn_jax.bridge import seed_formats, seed_hdf5, seed_write
from attn_jax.bridge.seed_hdf5 import SeedFrame
from attn_jax.bridge.seed_uncertainty import UNCERTAINTY_FILE, read_uncertainty, refused
from attn_jax.core import files
from attn_jax.core.errors import EpisodeError, RecordError
from attn_jax.core.geometry import letterbox
from attn_jax.core.layout import TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.data.episodes import (
    META,
    RECORDED,
    VARIANTS,
    Episode,
    episode_folder,
    read_episode,
    variants_of,
    write_episode,
)
from attn_jax.probe.arrays import read_json
from attn_jax.probe.schema import RUN, episodes
from attn_jax.probe.store import RecordReader, RecordWriter
from attn_jax.viz.camera_maps import EpisodeView

BASES = ("base", "baseline", "original")
_EXPORTED = ("prefix", "suffix", "suffix.patch_map", "suffix.group_mass")


def convert(
    source: pathlib.Path,
    target: pathlib.Path,
    *,
    cameras: Sequence[str] | None = None,
    grid: tuple[int, int] = seed_formats.GRID,
    call: int = 0,
    to: str = "auto",
) -> dict[str, Any]:
    """Older format to run folder, or record to older format; see `launch.attention`.

    Args:
      source: file, folder of files, or record.
      target: run folder, or file or folder of an older format; must not exist.
      cameras: of an imported file, all slots in token order; of an export to HDF5, the exterior
        camera and the wrist camera.
      grid: rows and columns of a camera's tokens in imported files.
      call: which call becomes .npz or .npy.
      to: `hdf5` writes a folder of HDF5 files; `auto` goes by the name of the target.

    Raises:
      RecordError: nothing there that can be converted, or a target that exists already.
    """
    if target.exists():
        raise RecordError("exists already", where=target, fix="Name another target")
    inside = sorted(source.iterdir()) if source.is_dir() else []
    found = [path for path in inside if seed_formats.EPISODE_FILE.fullmatch(path.name)]
    if found or seed_formats.is_seed(source):
        return _import(found or [source], target, cameras, grid)
    others = [path for path in inside if UNCERTAINTY_FILE.fullmatch(path.name)]
    if others:
        raise refused(others[0])
    if seed_hdf5.is_seed_hdf5(source):
        return _import_hdf5(inside if source.is_dir() else [source], target)
    if to == "hdf5":
        return _export_hdf5(source, target, cameras)
    return _export(RecordReader(source), target, call)


def _import(
    sources: Sequence[pathlib.Path],
    target: pathlib.Path,
    cameras: Sequence[str] | None,
    grid: tuple[int, int],
) -> dict[str, Any]:
    written = {}
    for source in sources:
        episode = seed_formats.read_seed(source, cameras=cameras, grid=grid)
        with RecordWriter(target, episode.number, codec="float32", info=episode.info) as writer:
            for number, env_step in enumerate(episode.env_step):
                writer.append([episode.record(number)], env_step=env_step)
        written[source.name] = {"episode": episode.number, "calls": len(episode.env_step)}
        logging.info("%s: %d calls", source.name, len(episode.env_step))
    return {"target": target.name, "episodes": written}


def _export(reader: RecordReader, target: pathlib.Path, call: int) -> dict[str, Any]:
    if target.suffix == ".pt":
        records = [reader.record("suffix").call(number) for number in range(reader.num_calls)]
        number, times = int(reader.meta["episode"]), _times(reader)
        seed_write.write_episode(target, records, reader.env_step, number=number, times=times)
        return {"target": target.name, "calls": len(records)}
    if call >= reader.num_calls:
        raise RecordError(f"has {reader.num_calls} calls, --call is {call}", where=reader.folder)
    record = reader.record("prefix").call(call)
    seed_write.write_layers(target, record)
    return {"target": target.name, "call": call, "layers": [*record.layers]}


def _times(reader: RecordReader) -> list[float | None] | None:
    """Flow time of every denoising step of the model; None where the record holds all of them.

    Raises:
      RecordError: the episode does not say how many steps there were, and may lack some.
    """
    info, denoise = reader.info, reader.record("suffix").denoise
    whole = denoise == tuple(range(len(denoise)))
    if "times" in info and info.get("denoising_steps") == len(info["times"]):
        return list(info["times"])
    # Records of earlier versions have no times, or those of an imported file as `time`.
    run = reader.folder.parents[1] / RUN
    about = read_json(run) if run.is_file() else {}
    model = (about.get("provenance") or {}).get("model") or {}
    selected = (about.get("selection") or {}).get("denoise", "all")
    passes = model.get("num_inference_steps", len(denoise))
    if "times" in info or not whole or selected != "all" or passes != len(denoise):
        raise RecordError(
            f"holds denoising steps {', '.join(map(str, denoise))} and does not say of how many, "
            "so that their flow times are unknown",
            where=reader.folder,
            fix="Record again; episodes recorded now name `times` and `denoising_steps`",
        )
    return info.get("time")


def _import_hdf5(paths: Sequence[pathlib.Path], target: pathlib.Path) -> dict[str, Any]:
    """Frames of a prompt are the calls of one episode; other prompts become variants."""
    by_key: dict[str, dict[int, pathlib.Path]] = {}
    for path in paths:
        if match := seed_hdf5.NAME.fullmatch(path.name):
            by_key.setdefault(match[2], {})[int(match[1])] = path
    base = next((key for key in BASES if key in by_key), min(by_key))
    written = {}
    for key in sorted(by_key, key=lambda key: key != base):
        run = target if key == base else target / VARIANTS / key
        frames = dict(sorted(by_key[key].items()))
        first = seed_hdf5.read_frame(next(iter(frames.values())))
        info = {"prompt": first.instruction, "variant": "base" if key == base else key}
        seen: list[SeedFrame] = []
        with RecordWriter(run, 0, codec="float32", info=info) as writer:
            for step, path in frames.items():
                frame = seed_hdf5.read_frame(path)
                writer.append(frame.records, env_step=step)
                seen.append(dataclasses.replace(frame, records={}))
        _write_observations(episode_folder(run, 0), seen, [*frames], info)
        written[key] = {"run": str(run.relative_to(target)), "calls": len(frames)}
        logging.info("%s: %d frames", key, len(frames))
    return {"target": target.name, "episodes": written}


def _write_observations(
    folder: pathlib.Path, frames: Sequence[SeedFrame], steps: Sequence[int], info: dict[str, Any]
) -> None:
    """Pictures and actions of frames that all have them; these files do not know the state."""
    cameras = [c for c in seed_hdf5.CAMERAS if all(c in frame.images for frame in frames)]
    predicted = [frame.pred_action for frame in frames if frame.pred_action is not None]
    recorded = [frame.gt_action for frame in frames if frame.gt_action is not None]
    if not cameras:
        return
    whole = len(predicted) == len(frames)
    write_episode(
        folder,
        Episode(
            info=info,
            env_step=np.asarray(steps, np.int64),
            images={c: np.stack([frame.images[c] for frame in frames]) for c in cameras},
            objects=(),
            roles={},
            masks={},
            state=np.zeros((len(frames), 0), np.float32),
            actions=np.stack(predicted).astype(np.float32) if whole else None,
        ),
    )
    if len(recorded) == len(frames):
        actions = np.stack(recorded).astype(np.float32)
        files.write_file(
            folder / RECORDED,
            lambda file: np.save(file, actions, allow_pickle=False),
            what="an episode",
        )


def _export_hdf5(
    source: pathlib.Path, target: pathlib.Path, cameras: Sequence[str] | None
) -> dict[str, Any]:
    runs = {"base": source, **(variants_of(source) if source.is_dir() else {})}
    files = []
    for key, run in runs.items():
        folders = episodes(run)
        for folder in folders:
            # One episode gives the file names of the tool; several get a folder each.
            place = target if len(folders) == 1 else target / folder.name
            place.mkdir(parents=True, exist_ok=True)
            for step, frame in _frames(folder, cameras):
                path = place / f"{step:05d}_{key}.h5"
                seed_hdf5.write_frame(path, frame)
                files.append(str(path.relative_to(target)))
    return {"target": target.name, "files": files}


def _frames(folder: pathlib.Path, cameras: Sequence[str] | None) -> Iterator[tuple[int, SeedFrame]]:
    view = EpisodeView.open(folder)
    reader = view.reader
    names = list(cameras or view.cameras())[:2]
    if len(names) != 2:
        raise RecordError(
            f"the format has two cameras, the record has {', '.join(names)}", where=folder
        )
    new = dict(zip(names, seed_hdf5.CAMERAS, strict=True))
    chosen = [name for name in _EXPORTED if name in reader.names]
    episode = read_episode(folder) if (folder / META).is_file() else None
    gold = folder / RECORDED
    recorded = np.load(gold, allow_pickle=False) if gold.is_file() else None
    records = {name: reader.record(name) for name in chosen}
    if not records:
        raise RecordError(
            "has nothing that the format holds", where=folder, fix=f"It has {_EXPORTED}"
        )
    _require_steps(reader, records)
    for call, step in enumerate(reader.env_step):
        made = {name: _renamed(record.call(call), new) for name, record in records.items()}
        layout = next(iter(made.values())).layout
        words = _words(layout)
        place = None if episode is None else episode.env_step.tolist().index(step)
        yield (
            step,
            SeedFrame(
                instruction=str(reader.info.get("prompt") or ""),
                records=made,
                images={} if episode is None else _letterboxed(episode, place, new, folder),
                token_texts=tuple(text for text, _ in words),
                token_ids=tuple(i for _, i in words if i is not None),
                prefix_len=sum(len(g.indices) for g in layout.groups if g.grid is not None),
                pred_action=_at(None if episode is None else episode.actions, place),
                gt_action=_at(recorded, place),
            ),
        )


def _words(layout: TokenLayout) -> list[tuple[str, int | None]]:
    """Text and id of every real prompt token in order; ids are None where one is not known."""
    found: list[tuple[int, str, int | None]] = []
    for group in layout.groups:
        if group.name in ("bos", "text", "state"):
            nothing = [None] * len(group.indices)
            texts, ids = group.labels or nothing, group.ids or nothing
            found += zip(group.indices, (text or "" for text in texts), ids, strict=True)
    known = all(number is not None for *_, number in found)
    return [(text, number if known else None) for _, text, number in sorted(found)]


def _require_steps(reader: RecordReader, records: Mapping[str, AttentionRecord]) -> None:
    """Refuses maps of the actions that lack denoising steps, which the format only counts.

    Raises:
      RecordError: names the record and the steps.
    """
    found = {name: r.denoise for name, r in records.items() if r.stream == "suffix"}
    steps = [step for denoise in found.values() for step in denoise]
    total = reader.info.get("denoising_steps") or max(steps, default=0) + 1
    for name, denoise in found.items():
        # Whole maps are those of the last step.
        if total - 1 not in denoise or (name != "suffix" and len(denoise) != total):
            raise RecordError(
                f"the format needs all {total} denoising steps; {name} has "
                f"{', '.join(map(str, denoise))}",
                where=reader.folder,
                fix="Record with denoise=all",
            )


def _at(values: Any, place: int | None) -> Any:
    return None if values is None or place is None else values[place]


def _renamed(record: AttentionRecord, new: dict[str, str]) -> AttentionRecord:
    """The record with its cameras called as the format calls them."""
    table = {f"image/{old}": f"image/{name}" for old, name in new.items()}
    groups = tuple(
        dataclasses.replace(group, name=table.get(group.name, group.name))
        for group in record.layout.groups
    )
    layout = dataclasses.replace(record.layout, groups=groups)
    keys = tuple(table.get(name, name) for name in record.key_names)
    return dataclasses.replace(record, layout=layout, key_names=keys)


def _letterboxed(
    episode: Episode, place: int | None, new: dict[str, str], folder: pathlib.Path
) -> dict[str, Any]:
    out = {}
    side = (seed_hdf5.INPUT_PX, seed_hdf5.INPUT_PX)
    for old, name in new.items():
        if old not in episode.images:
            raise EpisodeError(f"no pictures of camera {old!r}", where=folder)
        picture = episode.images[old][place or 0]
        out[name] = letterbox((picture.shape[0], picture.shape[1]), side).image(picture)
    return out


def inspect_seed(path: pathlib.Path, cameras: Sequence[str] | None, grid: tuple[int, int]) -> dict:
    """What a file of an older format holds: sizes, shapes, layers, times, prompt, row sums.

    Raises:
      RecordError: no such file, or a damaged one.
    """
    files = [path] if path.is_file() else [f for f in path.iterdir() if f.is_file()]
    out: dict[str, Any] = {"name": path.name, "bytes": sum(f.stat().st_size for f in files)}
    if UNCERTAINTY_FILE.fullmatch(path.name):
        return out | read_uncertainty(path)
    if seed_hdf5.is_seed_hdf5(path):
        first = next(f for f in sorted(files) if seed_hdf5.NAME.fullmatch(f.name))
        frame = seed_hdf5.read_frame(first)
        shapes = {name: [*record.shape] for name, record in frame.records.items()}
        layers = {name: [*record.layers] for name, record in frame.records.items()}
        out |= {"files": len(files), "first": first.name, "prompt": frame.instruction}
        return out | {"shapes": shapes, "layers": layers, "tokens": [*frame.token_texts]}
    episode = seed_formats.read_seed(path, cameras=cameras, grid=grid)
    sample = episode.read(0)
    return out | {
        "stream": episode.stream,
        "calls": len(episode.env_step),
        "env_step": [*episode.env_step],
        "shape": [len(episode.env_step), *sample.shape],
        "layers": [*episode.layers],
        "heads": len(episode.heads),
        "denoise": [*episode.denoise],
        "times": [*episode.times],
        "groups": {g.name: len(g.indices) for g in episode.layout.groups},
        "prompt": episode.info.get("prompt"),
        "row_sum_error": float(np.abs(sample.sum(-1, dtype=np.float64) - 1).max()),
    }
