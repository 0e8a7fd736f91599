"""LeRobotDataset v3 folders written by hand, as the format's description says.

root = write_dataset(tmp_path / "dataset", lengths=(5, 7))
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

CAMERAS = ("observation.images.front", "observation.images.wrist")
TASKS = ("pick up the red cube", "find the blue ball")
STATE_DIM, ACTION_DIM = 4, 3


def pictures(total: int, side: int, camera: int) -> np.ndarray:
    """(n, side, side, 3) uint8: a bright square that moves, so that neighbours differ."""
    out = np.full((total, side, side, 3), 40 * (camera + 1), np.uint8)
    for i in range(total):
        place = (3 * i) % (side - 8)
        out[i, place : place + 8, 4:12] = (200, 10 + i, 90)
    return out


def write_dataset(
    root: Path, lengths: Sequence[int] = (5, 7), *, side: int = 32, video: bool = False
) -> Path:
    """Writes a dataset with two cameras; episodes alternate between the tasks."""
    total, rng = sum(lengths), np.random.default_rng(0)
    features: dict[str, Any] = {
        key: {
            "dtype": "video" if video else "image",
            "shape": [side, side, 3],
            "names": ["height", "width", "channels"],
        }
        for key in CAMERAS
    }
    features["observation.state"] = {"dtype": "float32", "shape": [STATE_DIM], "names": None}
    features["action"] = {"dtype": "float32", "shape": [ACTION_DIM], "names": None}
    for key in ("frame_index", "episode_index", "index", "task_index"):
        features[key] = {"dtype": "int64", "shape": [1], "names": None}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    episode = np.repeat(np.arange(len(lengths)), lengths)
    edges = np.concatenate([[0], np.cumsum(lengths)])
    frame = np.arange(total) - edges[episode]
    columns: dict[str, Any] = {
        "observation.state": _vectors(rng.normal(size=(total, STATE_DIM))),
        "action": _vectors(rng.normal(size=(total, ACTION_DIM))),
        "timestamp": pa.array((frame / 10).astype(np.float32)),
        "frame_index": frame,
        "episode_index": episode,
        "index": np.arange(total),
        "task_index": episode % len(TASKS),
    }
    table: dict[str, Any] = {
        "episode_index": np.arange(len(lengths)),
        "length": list(lengths),
        "data/chunk_index": [0] * len(lengths),
        "data/file_index": [0] * len(lengths),
        "dataset_from_index": edges[:-1],
        "dataset_to_index": edges[1:],
        "stats/action/min": [[0.0]] * len(lengths),
    }
    for number, key in enumerate(CAMERAS):
        shown = pictures(total, side, number)
        if video:
            _write_video(root / f"videos/{key}/chunk-000/file-000.mp4", shown)
            table[f"videos/{key}/chunk_index"] = [0] * len(lengths)
            table[f"videos/{key}/file_index"] = [0] * len(lengths)
            table[f"videos/{key}/from_timestamp"] = edges[:-1] / 10
            table[f"videos/{key}/to_timestamp"] = edges[1:] / 10
        else:
            columns[key] = pa.array([{"bytes": _png(x), "path": None} for x in shown])
    _write(root / "data/chunk-000/file-000.parquet", columns)
    _write(root / "meta/episodes/chunk-000/file-000.parquet", table)
    _write(root / "meta/tasks.parquet", {"task_index": [0, 1], "task": list(TASKS)})
    info = {
        "codebase_version": "v3.0",
        "fps": 10,
        "features": features,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/stats.json").write_text(json.dumps({"action": {"q01": [-1.0] * ACTION_DIM}}))
    return root


def _vectors(values: np.ndarray) -> pa.Array:
    flat = pa.array(values.astype(np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


def _write(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def _write_video(path: Path, shown: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10", "g": "2"})
        stream.height, stream.width = shown.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for picture in shown:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
