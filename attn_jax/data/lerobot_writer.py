"""Writer of LeRobotDataset v3, without torch or lerobot.

    FOLDER/meta/info.json                                 fps, features, totals, path templates
    FOLDER/meta/stats.json                                statistics of every feature
    FOLDER/meta/tasks.parquet                             task text -> task_index
    FOLDER/meta/episodes/chunk-000/file-000.parquet       one row per episode
    FOLDER/data/chunk-000/file-000.parquet                one row per frame, a row group per episode
    FOLDER/videos/<key>/chunk-000/file-000.mp4            several episodes, storage "video" only

Storage "image" keeps lossless PNG bytes in the data file; "video" writes H.264 (yuv420p, crf 18, a
key frame every second frame, so that single frames are found quickly). `meta/info.json` is written
last: without it the folder is no dataset. Statistics are exact: quantiles are of all values, where
LeRobot's own writer averages the quantiles of episodes and looks at a sample of the pixels.

Axis names: t frames, h w pixels.

    with LeRobotWriter(folder, fps=10, features=features, robot_type="tabletop") as writer:
        writer.add_episode({"observation.state": states, "action": actions, ...}, task="pick it up")
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attn_jax.core import files
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.core.typing import NumpyArray, PathLike, UInt8
from attn_jax.data.lerobot_stats import FeatureStats

CODEBASE_VERSION = "v3.0"
STORAGES = ("image", "video")
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"
_FILES_PER_CHUNK = 1000
_DATA_FILE_MB, _VIDEO_FILE_MB = 100, 200
_CRF, _KEY_FRAMES = 18, 2
_FREE = "Free some space, then write the dataset anew into an empty folder"

#: Columns that every dataset has -> dtype.
INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def image_feature(height: int, width: int, storage: str) -> dict[str, Any]:
    """Feature of a camera's RGB pictures; raises ConfigError for an unknown storage."""
    if storage not in STORAGES:
        raise ConfigError(f"unknown storage {storage!r}", fix=f"Use {' or '.join(STORAGES)}")
    if storage == "video" and (height % 2 or width % 2):
        raise ConfigError(
            f"a video cannot have {height} x {width} pixels", fix="Use even sizes or storage image"
        )
    names = ["height", "width", "channels"]
    return {"dtype": storage, "shape": [height, width, 3], "names": names}


def vector_feature(names: tuple[str, ...]) -> dict[str, Any]:
    """Feature of a float32 vector whose entries have these names."""
    return {"dtype": "float32", "shape": [len(names)], "names": list(names)}


def refuse_existing(folder: PathLike) -> None:
    """Raises SessionError when the folder already holds a dataset, whole or not."""
    if any((pathlib.Path(folder) / part).exists() for part in ("meta", "data", "videos")):
        raise SessionError(
            "already holds a dataset", where=folder, fix="Name another folder, or delete this one"
        )


class LeRobotWriter:
    """Writes episodes one after the other; use it as a context manager.

    Leaving the context finishes the dataset, also on an error: it then holds the episodes that were
    added before.

    Args:
      folder: of the dataset.
      fps: frames a second.
      features: key -> `image_feature` or `vector_feature`.
      robot_type: name kept in `info.json`.

    Raises:
      SessionError: the folder already holds a dataset.
    """

    def __init__(
        self, folder: PathLike, *, fps: int, features: Mapping[str, Mapping], robot_type: str
    ):
        refuse_existing(folder)
        self._folder = pathlib.Path(folder)
        self._fps = fps
        self._robot_type = robot_type
        self._features = {key: dict(feature) for key, feature in features.items()}
        columns = {
            key: {"dtype": d, "shape": [1], "names": None} for key, d in INDEX_COLUMNS.items()
        }
        self._all_features = self._features | columns
        self._schema = _schema(self._all_features)
        self._stats = {key: FeatureStats(f["dtype"]) for key, f in self._all_features.items()}
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._frames = 0
        self._file = -1
        self._data: pq.ParquetWriter | None = None
        self._videos: dict[str, _Video] = {}

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def add_episode(
        self,
        frames: Mapping[str, NumpyArray],
        task: str,
        note: Mapping[str, bool | int | float | str] | None = None,
    ) -> int:
        """Appends an episode.

        Args:
          frames: every feature's key -> (t, h, w, 3) uint8 or (t, n) float32.
          task: what the episode was asked to do.
          note: more columns of the episode's row in `meta/episodes`, the same in all episodes.

        Returns:
          The episode's index.

        Raises:
          ConfigError: a feature is missing or has another shape or dtype; nothing is written.
          DiskFullError: no space left; the dataset cannot be continued.
        """
        length = self._check(frames)
        with files.disk_errors(self._folder, what="a dataset", fix=_FREE):
            return self._add(length, frames, task, note)

    def _add(
        self,
        length: int,
        frames: Mapping[str, NumpyArray],
        task: str,
        note: Mapping[str, bool | int | float | str] | None,
    ) -> int:
        self._next_file()
        index = len(self._episodes)
        columns: dict[str, Any] = {
            "timestamp": np.arange(length, dtype=np.float32) / np.float32(self._fps),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": self._frames + np.arange(length),
            "task_index": np.full(length, self._tasks.setdefault(task, len(self._tasks))),
        }
        row = {
            "episode_index": index,
            "tasks": [task],
            "length": length,
            "data/chunk_index": self._file // _FILES_PER_CHUNK,
            "data/file_index": self._file % _FILES_PER_CHUNK,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
            **(note or {}),
        }
        for key, video in self._videos.items():
            start = video.frames / self._fps
            video.write(frames[key])
            row[f"videos/{key}/chunk_index"] = row["data/chunk_index"]
            row[f"videos/{key}/file_index"] = row["data/file_index"]
            row[f"videos/{key}/from_timestamp"] = start
            row[f"videos/{key}/to_timestamp"] = video.frames / self._fps
        columns |= frames
        arrays = [_column(columns[field.name], field.type) for field in self._schema]
        assert self._data is not None
        self._data.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        for key, stats in self._stats.items():
            values = stats.add(columns[key])
            row |= {f"stats/{key}/{name}": value for name, value in values.items()}
        self._episodes.append(row)
        self._frames += length
        return index

    def _check(self, frames: Mapping[str, NumpyArray]) -> int:
        if set(frames) != set(self._features):
            raise ConfigError(
                f"an episode of {sorted(frames)}", fix=f"The features are {sorted(self._features)}"
            )
        lengths = {len(value) for value in frames.values()}
        if len(lengths) != 1 or not min(lengths):
            raise ConfigError(f"features of {sorted(lengths)} frames, in one episode")
        for key, feature in self._features.items():
            wanted = np.uint8 if feature["dtype"] in STORAGES else np.dtype(feature["dtype"])
            got = frames[key]
            if list(got.shape[1:]) != feature["shape"] or got.dtype != wanted:
                raise ConfigError(
                    f"frames are {got.dtype} {got.shape[1:]}, not {np.dtype(wanted)} "
                    f"{tuple(feature['shape'])}",
                    where=key,
                )
        return lengths.pop()

    def _next_file(self) -> None:
        """Opens new files when there are none or the present ones have grown large."""
        if self._data is not None:
            data = self._path(DATA_PATH).stat().st_size
            videos = [self._path(VIDEO_PATH, key).stat().st_size for key in self._videos]
            if data < _DATA_FILE_MB * 2**20 and max(videos, default=0) < _VIDEO_FILE_MB * 2**20:
                return
            self._close_files()
        self._file += 1
        self._data = pq.ParquetWriter(self._path(DATA_PATH), self._schema, compression="snappy")
        for key, feature in self._features.items():
            if feature["dtype"] == "video":
                self._videos[key] = _Video(self._path(VIDEO_PATH, key), feature["shape"], self._fps)

    def _path(self, template: str, key: str = "") -> pathlib.Path:
        chunk, file = divmod(self._file, _FILES_PER_CHUNK)
        text = template.format(chunk_index=chunk, file_index=file, video_key=key)
        path = self._folder / text
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _close_files(self) -> None:
        if self._data is not None:
            self._data.close()
        for video in self._videos.values():
            video.close()
        self._data, self._videos = None, {}

    def close(self) -> None:
        """Finishes all files; a dataset without episodes is not written. May be called twice.

        Raises:
          DiskFullError: no space left; the dataset is not complete.
        """
        with files.disk_errors(self._folder, what="a dataset", fix=_FREE):
            self._finish()

    def _finish(self) -> None:
        self._close_files()
        if not self._episodes or (self._folder / "meta/info.json").exists():
            return
        index = {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        path = self._folder / EPISODES_PATH.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row | index for row in self._episodes]), path)
        tasks = pd.DataFrame(
            {"task_index": list(self._tasks.values())}, index=pd.Index(self._tasks, name="task")
        )
        tasks.to_parquet(self._folder / "meta/tasks.parquet")
        stats = {key: each.total() for key, each in self._stats.items()}
        _write_json(self._folder / "meta/stats.json", stats)
        _write_json(self._folder / "meta/info.json", self._info())

    def _info(self) -> dict[str, Any]:
        features = json.loads(json.dumps(self._all_features))
        for feature in features.values():
            if feature["dtype"] == "video":
                feature["info"] = {
                    "video.height": feature["shape"][0],
                    "video.width": feature["shape"][1],
                    "video.codec": "h264",
                    "video.pix_fmt": "yuv420p",
                    "video.fps": self._fps,
                    "video.channels": 3,
                    "video.g": _KEY_FRAMES,
                    "video.crf": _CRF,
                    "has_audio": False,
                    "is_depth_map": False,
                }
        has_video = any(feature["dtype"] == "video" for feature in features.values())
        return {
            "codebase_version": CODEBASE_VERSION,
            "fps": self._fps,
            "features": features,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _FILES_PER_CHUNK,
            "data_files_size_in_mb": _DATA_FILE_MB,
            "video_files_size_in_mb": _VIDEO_FILE_MB,
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if has_video else None,
            "robot_type": self._robot_type,
            "splits": {"train": f"0:{len(self._episodes)}"},
        }


class _Video:
    """One H.264 file that grows by episodes."""

    def __init__(self, path: pathlib.Path, shape: list[int], fps: int):
        self.frames = 0
        options = {"crf": str(_CRF), "g": str(_KEY_FRAMES), "preset": "veryfast"}
        self._container = av.open(str(path), "w", options={"movflags": "faststart"})
        stream = self._container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], "yuv420p"
        self._stream = stream

    def write(self, pictures: UInt8[NumpyArray, "t h w 3"]) -> None:
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self.frames
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


def _schema(features: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """Columns of the data files, with the note that makes `datasets` decode pictures."""
    fields, described = [], {}
    for key, feature in features.items():
        if feature["dtype"] == "video":
            continue
        if feature["dtype"] == "image":
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            described[key] = {"_type": "Image"}
        else:
            kind = pa.from_numpy_dtype(np.dtype(feature["dtype"]))
            described[key] = {"dtype": feature["dtype"], "_type": "Value"}
            if key not in INDEX_COLUMNS:
                size = feature["shape"][0]
                kind = pa.list_(kind, size)
                described[key] = {"feature": described[key], "length": size, "_type": "List"}
        fields.append(pa.field(key, kind))
    note = json.dumps({"info": {"features": described}})
    return pa.schema(fields, metadata={"huggingface": note})


def _column(values: NumpyArray, kind: pa.DataType) -> pa.Array:
    if pa.types.is_struct(kind):
        rows = [
            {"bytes": encode_png(picture), "path": f"frame-{i:06d}.png"}
            for i, picture in enumerate(values)
        ]
        return pa.array(rows, kind)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values.reshape(-1), type=kind)
    return pa.array(values, kind)


def encode_png(picture: UInt8[NumpyArray, "h w 3"]) -> bytes:
    """Lossless PNG of an RGB picture."""
    done, data = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 4])
    assert done
    return data.tobytes()


def _write_json(path: pathlib.Path, value: Any) -> None:
    text = json.dumps(value, indent=2) + "\n"  # not sorted: the order of features means something
    files.replace_file(path, lambda file: file.write(text.encode()))
