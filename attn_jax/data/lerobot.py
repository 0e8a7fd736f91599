"""LeRobotDataset v3 folders, read without torch and without lerobot.

Axis names: n frames, k chosen frames, d dimensions of a feature, H offsets of a chunk, h w pixels.
Vectors are read whole; pictures (PNG in the parquet files, or video) when they are asked for.

    dataset = open_dataset("datasets/tabletop")
    dataset.columns["observation.state"]                                   # (n, d) float32
    dataset.frames("observation.images.front", [0, 5])                     # (2, h, w, 3) uint8
    actions, is_pad = dataset.chunk("action", [0, 5], range(10))           # (2, 10, d), (2, 10)
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from attn_jax.core.errors import InputError
from attn_jax.core.typing import NumpyArray, PathLike
from attn_jax.data.video_frames import frames_at

VERSION = "v3."
PICTURES = ("image", "video")
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_INDEX = ("index", "episode_index", "frame_index", "task_index", "timestamp")


class DatasetError(InputError):
    """A dataset is missing, damaged or lacks a feature."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """An opened dataset.

    Attributes:
      root: its folder.
      info: `meta/info.json`.
      stats: `meta/stats.json`, feature -> statistic -> array; empty without the file.
      tasks: task texts; `columns["task_index"]` points at them.
      episodes: (e, 2) first and past-the-last frame of every episode.
      episode_table: `meta/episodes`, column -> (e,) values.
      columns: every feature that is no picture, (n,) or (n, d).
    """

    root: pathlib.Path
    info: Mapping[str, Any]
    stats: Mapping[str, Mapping[str, NumpyArray]]
    tasks: tuple[str, ...]
    episodes: NumpyArray
    episode_table: Mapping[str, Any]
    columns: Mapping[str, NumpyArray]

    def __len__(self) -> int:
        return len(self.columns["index"])

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.info["fps"])

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """Feature name -> {dtype, shape, names}."""
        return self.info["features"]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Features that are pictures, in the order of `info.json`."""
        return tuple(k for k, feature in self.features.items() if feature["dtype"] in PICTURES)

    def task_of(self, indices: Sequence[int] | NumpyArray) -> list[str]:
        """Task text of every frame."""
        numbers = self.columns["task_index"][np.asarray(indices, np.int64)]
        return [self.tasks[int(number)] for number in numbers]

    def column(self, key: str) -> NumpyArray:
        """A feature that is no picture, (n,) or (n, d).

        Raises:
          DatasetError: there is none of this name.
        """
        if key not in self.columns:
            raise DatasetError(
                f"has no feature {key!r}",
                where=self.root,
                fix=f"Features: {', '.join(self.features)}",
            )
        return self.columns[key]

    def chunk(
        self, key: str, indices: Sequence[int] | NumpyArray, offsets: Iterable[int]
    ) -> tuple[NumpyArray, NumpyArray]:
        """Values at `index + offset`, as LeRobot's `delta_timestamps` of offset / fps.

        Beyond the ends of the episode the first or last value is repeated and marked.

        Args:
          key: a feature that is no picture.
          indices: (k,) frames.
          offsets: frames from each.

        Returns:
          (k, H, d) values, (k, H) bool `is_pad`.
        """
        values = self.column(key)
        indices = np.asarray(indices, np.int64)
        places = indices[:, None] + np.asarray([*offsets], np.int64)
        bounds = self.episodes[self.columns["episode_index"][indices]]
        first, stop = bounds[:, :1], bounds[:, 1:]
        return values[np.clip(places, first, stop - 1)], (places < first) | (places >= stop)

    def frames(self, key: str, indices: Sequence[int] | NumpyArray) -> NumpyArray:
        """Pictures of a camera, RGB, (k, h, w, 3) uint8.

        Raises:
          DatasetError: no such camera, or a picture that is missing, damaged or of another size.
          InputError: a video that cannot be decoded.
        """
        if key not in self.cameras:
            raise DatasetError(
                f"has no camera {key!r}",
                where=self.root,
                fix=f"Cameras: {', '.join(self.cameras) or 'none'}",
            )
        indices = np.asarray(indices, np.int64)
        height, width, _ = self.picture_shape(key)
        out = np.empty((len(indices), height, width, 3), np.uint8)
        of_file = self._file_of(key, indices)
        for file in sorted(set(of_file)):
            rows = np.flatnonzero([name == file for name in of_file])
            if self.features[key]["dtype"] == "video":
                found = self._from_video(key, file, indices[rows])
            else:
                found = self._from_parquet(key, file, indices[rows])
            for row, picture in zip(rows, found, strict=True):
                if picture.shape != (height, width, 3):
                    raise DatasetError(
                        f"frame {indices[row]} of {key} has shape {picture.shape}, info.json says "
                        f"{(height, width, 3)}",
                        where=self.root / file,
                    )
                out[row] = picture
        return out

    def picture_shape(self, key: str) -> tuple[int, int, int]:
        """(height, width, 3) of a camera, whatever order `info.json` names the axes in."""
        return _hwc(self.features[key], key, self.root)

    def statistics(self, key: str, *, exact: bool = True) -> dict[str, NumpyArray]:
        """min, max, mean, std and q01, q10, q50, q90, q99 of a vector feature, (d,) float32.

        Args:
          key: the feature.
          exact: over all frames. Otherwise those of `stats.json`, whose quantiles are averages over
            episodes of each episode's own: narrower than the data where episodes differ.

        Raises:
          DatasetError: no such feature, or `stats.json` lacks it.
        """
        if not exact:
            if key not in self.stats:
                raise DatasetError(f"has no statistics of {key!r}", where=self.root / "meta")
            return {name: np.asarray(v, np.float32) for name, v in self.stats[key].items()}
        values = np.asarray(self.column(key), np.float64).reshape(len(self), -1)
        found = {
            "min": values.min(axis=0),
            "max": values.max(axis=0),
            "mean": values.mean(axis=0),
            "std": values.std(axis=0),
            **{name: np.quantile(values, share, axis=0) for name, share in QUANTILES.items()},
        }
        return {name: value.astype(np.float32) for name, value in found.items()}

    def _file_of(self, key: str, indices: NumpyArray) -> list[str]:
        """Path of the file, below the root, that holds each frame of a camera."""
        video = self.features[key]["dtype"] == "video"
        prefix = f"videos/{key}" if video else "data"
        template = self.info["video_path" if video else "data_path"]
        names = []
        for episode in self.columns["episode_index"][indices]:
            chunk, file = (
                int(self.episode_table[f"{prefix}/{part}"][episode])
                for part in ("chunk_index", "file_index")
            )
            names.append(template.format(video_key=key, chunk_index=chunk, file_index=file))
        return names

    def _from_video(self, key: str, file: str, indices: NumpyArray) -> list[NumpyArray]:
        starts = np.asarray(self.episode_table[f"videos/{key}/from_timestamp"], np.float64)
        episodes = self.columns["episode_index"][indices]
        times = starts[episodes] + self.columns["timestamp"][indices].astype(np.float64)
        return [*frames_at(self.root / file, times.tolist())]

    def _from_parquet(self, key: str, file: str, indices: NumpyArray) -> list[NumpyArray]:
        path = self.root / file
        numbers, pictures = _picture_column(path, key)
        rows = np.searchsorted(numbers, indices)
        if (rows >= len(numbers)).any() or (numbers[rows] != indices).any():
            raise DatasetError(f"lacks frames that the episode table puts there: {key}", where=path)
        return [
            _decode(pictures[int(row)], path, key, int(i))
            for row, i in zip(rows, indices, strict=True)
        ]


def open_dataset(root: PathLike) -> Dataset:
    """Opens a dataset folder; reads everything but pictures.

    Raises:
      DatasetError: a file is missing or damaged, the format is not v3, or tables do not fit.
    """
    root = pathlib.Path(root)
    info = _read_json(root / "meta" / "info.json")
    version = str(info.get("codebase_version"))
    if not version.startswith(VERSION):
        raise DatasetError(
            f"is of the format {version!r}, not {VERSION}x",
            where=root / "meta" / "info.json",
            fix="Convert it with LeRobot's own converter",
        )
    for name in ("fps", "features", "data_path"):
        if name not in info:
            raise DatasetError(f"lacks {name!r}", where=root / "meta" / "info.json")
    stats_file = root / "meta" / "stats.json"
    stats = _read_json(stats_file) if stats_file.exists() else {}
    table = _read_tables(root, "meta/episodes")
    order = np.argsort(table["episode_index"])
    table = {name: np.asarray(values, object)[order].tolist() for name, values in table.items()}
    episodes = np.array(
        [table["dataset_from_index"], table["dataset_to_index"]], np.int64
    ).T.reshape(-1, 2)
    columns = _read_columns(root, info["features"])
    _check_episodes(root, episodes, columns)
    return Dataset(
        root,
        info,
        {key: {k: np.asarray(v) for k, v in value.items()} for key, value in stats.items()},
        _read_tasks(root / "meta" / "tasks.parquet"),
        episodes,
        table,
        columns,
    )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"cannot be read as JSON: {error}", where=path, fix="Give a LeRobotDataset v3 folder"
        ) from error
    if not isinstance(data, dict):
        raise DatasetError("holds no JSON object", where=path)
    return data


def _read_table(path: pathlib.Path, columns: Sequence[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=None if columns is None else [*columns])
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"cannot be read as parquet: {error}",
            where=path,
            fix="A recording that was not finalised has no footer; continue it, or record again",
        ) from error


def _read_tables(root: pathlib.Path, folder: str) -> dict[str, list[Any]]:
    """Columns of all files below `folder`, statistics left out."""
    paths = _parquet_files(root, folder)
    tables = []
    for path in paths:
        names = [name for name in _names(path) if not name.startswith("stats/")]
        tables.append(_read_table(path, names))
    for name in ("episode_index", "dataset_from_index", "dataset_to_index"):
        if name not in tables[0].column_names:
            raise DatasetError(f"lacks the column {name!r}", where=paths[0])
    return {
        name: [value for table in tables for value in table[name].to_pylist()]
        for name in tables[0].column_names
    }


def _parquet_files(root: pathlib.Path, folder: str) -> list[pathlib.Path]:
    paths = sorted((root / folder).glob("*/*.parquet"))
    if not paths:
        raise DatasetError("holds no parquet file", where=root / folder)
    return paths


def _names(path: pathlib.Path) -> list[str]:
    try:
        return pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"cannot be read as parquet: {error}",
            where=path,
            fix="A recording that was not finalised has no footer; continue it, or record again",
        ) from error


def _read_tasks(path: pathlib.Path) -> tuple[str, ...]:
    table = _read_table(path)
    names = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or len(names) != 1:
        raise DatasetError(
            f"has the columns {table.column_names}, expected task_index and the text", where=path
        )
    pairs = zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True)
    texts = dict(pairs)
    if sorted(texts) != list(range(len(texts))):
        raise DatasetError("task numbers are not 0, 1, 2, ...", where=path)
    return tuple(str(texts[i]) for i in range(len(texts)))


def _read_columns(root: pathlib.Path, features: Mapping[str, Any]) -> dict[str, NumpyArray]:
    """Features that are no pictures, in the order of the frames."""
    wanted = [key for key, feature in features.items() if feature["dtype"] not in PICTURES]
    parts: dict[str, list[NumpyArray]] = {key: [] for key in {*wanted, *_INDEX}}
    for path in _parquet_files(root, "data"):
        table = _read_table(path, [key for key in parts if key in _names(path)])
        for key in parts:
            if key not in table.column_names:
                raise DatasetError(f"lacks the feature {key!r} of info.json", where=path)
            parts[key].append(_array(table[key], features.get(key, {}), path, key))
    columns = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    order = np.argsort(columns["index"], kind="stable")
    columns = {key: array[order] for key, array in columns.items()}
    if (columns["index"] != np.arange(len(order))).any():
        raise DatasetError("frame numbers are not 0, 1, 2, ...", where=root / "data")
    return columns


def _array(
    column: pa.ChunkedArray, feature: Mapping[str, Any], path: pathlib.Path, key: str
) -> NumpyArray:
    """A parquet column as (n,) or (n, d)."""
    if column.null_count:
        raise DatasetError(f"{column.null_count} values of {key!r} are missing", where=path)
    combined = column.combine_chunks()
    kind = combined.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)):
        return combined.to_numpy(zero_copy_only=False)
    flat = combined.flatten().to_numpy(zero_copy_only=False)
    shape = tuple(feature.get("shape") or (-1,))
    try:
        return flat.reshape(len(column), *shape)
    except ValueError as error:
        raise DatasetError(
            f"{key!r} holds {len(flat)} numbers in {len(column)} frames, info.json says the shape "
            f"{shape}",
            where=path,
        ) from error


def _check_episodes(
    root: pathlib.Path, episodes: NumpyArray, columns: Mapping[str, NumpyArray]
) -> None:
    total = len(columns["index"])
    edges = np.concatenate([[0], episodes[:, 1]])
    numbers = np.repeat(np.arange(len(episodes)), np.maximum(np.diff(episodes)[:, 0], 0))
    if (
        (episodes[:, 0] != edges[:-1]).any()
        or edges[-1] != total
        or (numbers != columns["episode_index"]).any()
    ):
        raise DatasetError(
            f"the episode table covers {edges[-1]} frames, the data hold {total}, or they differ "
            "in where episodes begin",
            where=root / "meta" / "episodes",
            fix="A recording was cut off; continue it (the same command again), or record again",
        )


def _hwc(feature: Mapping[str, Any], key: str, where: pathlib.Path) -> tuple[int, int, int]:
    """(height, width, 3) whatever order the feature names its axes in."""
    shape, names = list(feature["shape"]), list(feature.get("names") or [])
    if names[:1] in (["channel"], ["channels"]):
        shape = [*shape[1:], shape[0]]
    if len(shape) != 3 or shape[2] != 3:
        raise DatasetError(f"{key} has the shape {feature['shape']}, expected RGB", where=where)
    return shape[0], shape[1], shape[2]


@functools.lru_cache(maxsize=4)  # files of a large dataset that are held at the same time
def _picture_column(path: pathlib.Path, key: str) -> tuple[NumpyArray, Any]:
    """Frame numbers of a data file, ascending, and its encoded pictures."""
    if key not in _names(path):
        raise DatasetError(f"lacks the pictures of {key}", where=path)
    table = _read_table(path, ["index", key]).sort_by("index")
    return table["index"].to_numpy(), table[key].combine_chunks()


def _decode(item: Any, path: pathlib.Path, key: str, index: int) -> NumpyArray:
    entry = item.as_py()
    data = entry.get("bytes") if isinstance(entry, dict) else None
    if not data:
        raise DatasetError(f"frame {index} of {key} has no picture in the file", where=path)
    try:
        with PIL.Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, PIL.UnidentifiedImageError) as error:
        raise DatasetError(
            f"frame {index} of {key} is no readable picture: {error}", where=path
        ) from error
