"""How frames become columns and videos of a LeRobotDataset v3. Axis names: t frames, h w pixels.

schema = data_schema(features)
arrays = [column(frames[field.name], field.type) for field in schema]
video = Video(path, [64, 64, 3], fps=10)
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa

from attn_jax.core.typing import NumpyArray, UInt8

CRF, KEY_FRAMES = 18, 2

#: Columns that every dataset has -> dtype.
INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


class Video:
    """One H.264 file, MP4 whatever its name, that grows by episodes."""

    def __init__(self, path: pathlib.Path, shape: list[int], fps: int):
        self.frames = 0
        options = {"crf": str(CRF), "g": str(KEY_FRAMES), "preset": "veryfast"}
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        stream = self._container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width, stream.pix_fmt = shape[0], shape[1], "yuv420p"
        self._stream = stream

    def write(self, pictures: UInt8[NumpyArray, "t h w 3"]) -> None:
        """Appends an episode's pictures."""
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self.frames
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Finishes the file."""
        self._container.mux(self._stream.encode())
        self._container.close()


def data_schema(features: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
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


def column(values: NumpyArray, kind: pa.DataType) -> pa.Array:
    """Values of one episode as a column of the data file; pictures become PNG."""
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
