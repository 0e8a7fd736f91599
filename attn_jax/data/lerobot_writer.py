"""Writer of LeRobotDataset v3, without torch or lerobot; what is interrupted can be continued.

    FOLDER/meta/info.json                                 fps, features, totals, path templates
    FOLDER/meta/stats.json                                statistics of every feature
    FOLDER/meta/tasks.parquet                             task text -> task_index
    FOLDER/meta/episodes/chunk-000/file-000.parquet       one row per episode
    FOLDER/data/chunk-000/file-000.parquet                one row per frame, a row group per episode
    FOLDER/videos/<key>/chunk-000/file-000.mp4            several episodes, storage "video" only
    FOLDER/meta/progress.json                             only while the dataset is not finished

Storage "image" keeps lossless PNG bytes in the data file; "video" writes H.264 (yuv420p, crf 18, a
key frame every second frame, so that single frames are found quickly). Statistics are exact:
quantiles are of all values, where LeRobot's own writer averages the quantiles of episodes and looks
at a sample of the pixels.

Every `commit_every` episodes, and when files grow large, the open files are closed, get their names
(before, they end in `.part`) and the metadata are written: then the folder is a whole dataset of
what was added so far, and a crash loses only what came after. `progress.json` is written last of
all; a writer of the same settings goes on from there and deletes what is newer.

Axis names: t frames, h w pixels.

    with LeRobotWriter(folder, fps=10, features=features, robot_type="tabletop") as writer:
        writer.add_episode({"observation.state": states, "action": actions, ...}, task="pick it up")
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from attn_jax.core import files
from attn_jax.core.differences import config_differences
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.core.typing import NumpyArray, PathLike
from attn_jax.data.lerobot_encoding import (
    CRF,
    INDEX_COLUMNS,
    KEY_FRAMES,
    Video,
    column,
    data_schema,
)
from attn_jax.data.lerobot_stats import FeatureStats

CODEBASE_VERSION = "v3.0"
STORAGES = ("image", "video")
PROGRESS = "meta/progress.json"
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_FILE}.mp4"
EPISODES_PATH = f"meta/episodes/{_FILE}.parquet"
_FOLDERS = ("meta", "data", "videos")
_PART = ".part"
_FILES_PER_CHUNK = 1000
_CONTINUE = "Free some space; another writer of the same settings goes on after what is committed"
_DATA_FILE_MB, _VIDEO_FILE_MB = 100, 200


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


def _read_progress(folder: pathlib.Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Progress of an unfinished dataset, None where there is no dataset; see LeRobotWriter."""
    path = folder / PROGRESS
    if not path.exists():
        found = [path for part in _FOLDERS for path in (folder / part).rglob("*.*")]
        if any(path.suffix != _PART for path in found):
            raise SessionError(
                "already holds a dataset", where=folder, fix="Name another folder, or delete it"
            )
        return None
    try:
        progress = json.loads(path.read_text(encoding="utf-8"))
        different = config_differences(progress["settings"], settings)
    except (OSError, ValueError, KeyError) as error:
        raise SessionError(f"cannot be read: {error}", where=path, fix="Delete the dataset") from (
            error
        )
    if different:
        raise SessionError(
            f"holds an unfinished dataset of other settings: {'; '.join(different)}",
            where=folder,
            fix="Continue it with its own settings, name another folder, or delete it",
        )
    return progress


class LeRobotWriter:
    """Writes episodes one after the other; use it as a context manager.

    Leaving the context finishes the dataset; leaving it by an error keeps what was added before,
    for another writer of the same settings to go on.

    Args:
      folder: of the dataset; nothing is written before the first episode.
      fps: frames a second.
      features: key -> `image_feature` or `vector_feature`.
      robot_type: name kept in `info.json`.
      settings: JSON values that decide what the episodes are; only a writer with equal ones may
        continue this dataset.
      commit_every: episodes that a crash may cost.

    Attributes:
      episodes, frames: numbers of them so far, with those of the writer that is continued.
      state: of the last of them, see `add_episode`; None where there is none.

    Raises:
      SessionError: the folder holds a finished dataset, or an unfinished one of other settings.
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        fps: int,
        features: Mapping[str, Mapping],
        robot_type: str,
        settings: Mapping[str, Any] | None = None,
        commit_every: int = 50,
    ):
        if commit_every < 1:
            raise ConfigError(f"commit_every is {commit_every}", fix="Use at least 1")
        self._folder = pathlib.Path(folder)
        self._fps = fps
        self._robot_type = robot_type
        self._commit_every = commit_every
        self._features = {key: dict(feature) for key, feature in features.items()}
        own = {"fps": fps, "robot_type": robot_type, "features": self._features}
        self._settings = json.loads(json.dumps({**own, **(settings or {})}))
        self._progress = _read_progress(self._folder, self._settings)
        columns = {
            key: {"dtype": d, "shape": [1], "names": None} for key, d in INDEX_COLUMNS.items()
        }
        self._all_features = self._features | columns
        self._schema = data_schema(self._all_features)
        self._stats = {key: FeatureStats(f["dtype"]) for key, f in self._all_features.items()}
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []  # of the episodes that are not committed
        self._file = 0  # number of the open files, or of the next ones
        self._data: pq.ParquetWriter | None = None
        self._videos: dict[str, Video] = {}
        self._torn = self._closed = False
        self.episodes = self.frames = 0
        self.state: Any = None
        if self._progress is not None:
            self.episodes, self.frames = self._progress["episodes"], self._progress["frames"]
            self.state = self._progress["state"]

    def __enter__(self) -> LeRobotWriter:
        if self._progress is not None:
            self._continue(self._progress)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(finished=kind is None)

    def add_episode(
        self,
        frames: Mapping[str, NumpyArray],
        task: str,
        note: Mapping[str, bool | int | float | str] | None = None,
        state: Any = None,
    ) -> int:
        """Appends an episode.

        Args:
          frames: every feature's key -> (t, h, w, 3) uint8 or (t, n) float32.
          task: what the episode was asked to do.
          note: more columns of the episode's row in `meta/episodes`, the same in all episodes.
          state: JSON values that the caller needs in order to go on after this episode.

        Returns:
          The episode's index.

        Raises:
          ConfigError: a feature is missing or has another shape or dtype; nothing is written.
          DiskFullError: no space left; what is committed is kept.
        """
        length = self._check(frames)
        index = self.episodes
        number = self._tasks.get(task, len(self._tasks))
        columns: dict[str, Any] = {
            "timestamp": np.arange(length, dtype=np.float32) / np.float32(self._fps),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, index),
            "index": self.frames + np.arange(length),
            "task_index": np.full(length, number),
            **frames,
        }
        chunk, file = self._place()
        places = {"chunk_index": chunk, "file_index": file}
        row = {
            "episode_index": index,
            "tasks": [task],
            "length": length,
            **{f"data/{name}": place for name, place in places.items()},
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + length,
            **(note or {}),
        }
        # From here on an interrupt leaves files and numbers that disagree: close() drops them.
        self._torn = True
        with files.disk_errors(self._folder, what="a dataset", fix=_CONTINUE):
            self._add(frames, columns, row, places, task)
        self.episodes, self.state = index + 1, state
        if len(self._rows) >= self._commit_every or self._large():
            with files.disk_errors(self._folder, what="a dataset", fix=_CONTINUE):
                self._commit()
        self._torn = False
        return index

    def _add(
        self,
        frames: Mapping[str, NumpyArray],
        columns: Mapping[str, Any],
        row: dict[str, Any],
        places: Mapping[str, int],
        task: str,
    ) -> None:
        """Writes the frames of an episode, and keeps its row until it is committed."""
        data = self._data or self._open_files()
        for key, video in self._videos.items():
            start = video.frames / self._fps
            video.write(frames[key])
            row |= {f"videos/{key}/{name}": place for name, place in places.items()}
            row[f"videos/{key}/from_timestamp"] = start
            row[f"videos/{key}/to_timestamp"] = video.frames / self._fps
        arrays = [column(columns[field.name], field.type) for field in self._schema]
        data.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        for key, stats in self._stats.items():
            values = stats.add(columns[key])
            row |= {f"stats/{key}/{name}": value for name, value in values.items()}
        self._tasks.setdefault(task, len(self._tasks))
        self._rows.append(row)
        self.frames += row["length"]

    def _check(self, frames: Mapping[str, NumpyArray]) -> int:
        if set(frames) != set(self._features):
            raise ConfigError(
                f"an episode of {sorted(frames)}", fix=f"The features are {sorted(self._features)}"
            )
        lengths = {len(value) for value in frames.values()}
        if len(lengths) != 1 or not min(lengths):
            raise ConfigError(f"features of {sorted(lengths)} frames, in one episode")
        for key, feature in self._features.items():
            wanted = np.uint8 if _is_picture(feature) else np.dtype(feature["dtype"])
            got = frames[key]
            if list(got.shape[1:]) != feature["shape"] or got.dtype != wanted:
                raise ConfigError(
                    f"frames are {got.dtype} {got.shape[1:]}, not {np.dtype(wanted)} "
                    f"{tuple(feature['shape'])}",
                    where=key,
                )
        return lengths.pop()

    def _place(self) -> tuple[int, int]:
        """(chunk, file) of the open files."""
        return divmod(self._file, _FILES_PER_CHUNK)

    def _path(self, template: str, key: str = "") -> pathlib.Path:
        """Path of an open file, once it is committed; makes its folder."""
        chunk, file = self._place()
        text = template.format(chunk_index=chunk, file_index=file, video_key=key)
        path = self._folder / text
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _open_files(self) -> pq.ParquetWriter:
        if not self._file:
            self._write_progress()  # whose the folder is, before anything is in it
        path = _part(self._path(DATA_PATH))
        self._data = pq.ParquetWriter(path, self._schema, compression="snappy")
        for key, feature in self._features.items():
            if feature["dtype"] == "video":
                path = _part(self._path(VIDEO_PATH, key))
                self._videos[key] = Video(path, feature["shape"], self._fps)
        return self._data

    def _large(self) -> bool:
        """Whether the open files have reached LeRobot's sizes."""
        parts = [(_part(self._path(DATA_PATH)), _DATA_FILE_MB)]
        parts += [(_part(self._path(VIDEO_PATH, key)), _VIDEO_FILE_MB) for key in self._videos]
        # A video exists once the encoder has given its first packet.
        return any(path.exists() and path.stat().st_size >= mb * 2**20 for path, mb in parts)

    def _commit(self) -> None:
        """Closes the open files and makes the folder a dataset of all episodes so far."""
        if self._data is None:
            return
        self._data.close()
        for video in self._videos.values():
            video.close()
        chunk, file = self._place()
        place = {"meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}
        rows = pa.Table.from_pylist([row | place for row in self._rows])
        pq.write_table(rows, _part(self._path(EPISODES_PATH)))
        tasks = pd.DataFrame(
            {"task_index": list(self._tasks.values())}, index=pd.Index(self._tasks, name="task")
        )
        tasks_file = self._folder / "meta/tasks.parquet"
        tasks.to_parquet(_part(tasks_file))
        stats = {key: each.total() for key, each in self._stats.items()}
        # Nothing but renaming and small files from here: a crash in between leaves files that are
        # newer than progress.json, which the next writer deletes.
        final = [self._path(VIDEO_PATH, key) for key in self._videos]
        for path in (*final, tasks_file, self._path(DATA_PATH), self._path(EPISODES_PATH)):
            _part(path).replace(path)
        _write_json(self._folder / "meta/stats.json", stats)
        _write_json(self._folder / "meta/info.json", self._info())
        self._data, self._videos, self._rows = None, {}, []
        self._file += 1
        self._write_progress()

    def close(self, *, finished: bool = True) -> None:
        """Commits all episodes; may be called twice.

        Args:
          finished: the dataset is complete; else another writer of the same settings may go on. A
            finished dataset without episodes is not written.

        Raises:
          DiskFullError: no space left; the dataset ends with what was committed before.
        """
        if self._closed:
            return
        self._closed = True
        if self._torn:
            self._drop_newer()
            return
        with files.disk_errors(self._folder, what="a dataset", fix=_CONTINUE):
            self._commit()
        if finished:
            (self._folder / PROGRESS).unlink(missing_ok=True)

    def _write_progress(self) -> None:
        """Says how far the committed dataset is."""
        path = self._folder / PROGRESS
        path.parent.mkdir(parents=True, exist_ok=True)
        progress = {
            "settings": self._settings,
            "episodes": self.episodes,
            "frames": self.frames,
            "files": self._file,
            "tasks": list(self._tasks),
            "counts": {key: each.counts.tolist() for key, each in self._pictures()},
            "state": self.state,
        }
        _write_json(path, progress)

    def _continue(self, progress: Mapping[str, Any]) -> None:
        """Takes over the committed episodes of another writer."""
        self._file = progress["files"]
        self._tasks = {task: number for number, task in enumerate(progress["tasks"])}
        self._drop_newer()
        for key, stats in self._pictures():
            stats.restore(np.array(progress["counts"][key], np.int64), self.frames)
        vectors = [key for key in self._stats if key not in dict(self._pictures())]
        for path in sorted((self._folder / "data").glob("*/*.parquet")):
            table = pq.read_table(path, columns=vectors)
            for key in vectors:
                values = table[key].combine_chunks()
                if pa.types.is_fixed_size_list(values.type):
                    values = values.flatten()
                self._stats[key].add(values.to_numpy().reshape(len(table), -1))

    def _pictures(self) -> list[tuple[str, FeatureStats]]:
        """Statistics of the cameras."""
        return [(key, self._stats[key]) for key, f in self._features.items() if _is_picture(f)]

    def _drop_newer(self) -> None:
        """Deletes the files that are not committed."""
        for folder in _FOLDERS:
            for path in [*(self._folder / folder).rglob(f"*{_PART}")]:
                path.unlink()
            for path in [*(self._folder / folder).rglob("chunk-*/file-*")]:
                chunk, file = (int(name.split("-")[1]) for name in (path.parent.name, path.stem))
                if (chunk, file) >= self._place():
                    path.unlink()

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
                    "video.g": KEY_FRAMES,
                    "video.crf": CRF,
                    "has_audio": False,
                    "is_depth_map": False,
                }
        has_video = any(feature["dtype"] == "video" for feature in features.values())
        return {
            "codebase_version": CODEBASE_VERSION,
            "fps": self._fps,
            "features": features,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _FILES_PER_CHUNK,
            "data_files_size_in_mb": _DATA_FILE_MB,
            "video_files_size_in_mb": _VIDEO_FILE_MB,
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if has_video else None,
            "robot_type": self._robot_type,
            "splits": {"train": f"0:{self.episodes}"},
        }


def _part(path: pathlib.Path) -> pathlib.Path:
    """Name of a file until it is committed; no reader looks at it."""
    return path.with_name(path.name + _PART)


def _is_picture(feature: Mapping[str, Any]) -> bool:
    return feature["dtype"] in STORAGES


def _write_json(path: pathlib.Path, value: Any) -> None:
    temporary = _part(path)
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
