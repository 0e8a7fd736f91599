"""Frames of a video at given times, by PyAV: h264, AV1 and whatever else its build decodes.

Axis names: n frames, h w pixels. Times are seconds from the start of the file.

    frames = frames_at("episode.mp4", [0.0, 0.1, 0.2], tolerance_s=1e-4)      # (n, h, w, 3) uint8
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence

import av
import av.error
import numpy as np

from attn_jax.core.errors import InputError
from attn_jax.core.typing import NumpyArray, PathLike


def frames_at(path: PathLike, times_s: Sequence[float], tolerance_s: float = 1e-4) -> NumpyArray:
    """The frames whose times are nearest, RGB, (n, h, w, 3) uint8, in the order of `times_s`.

    Decodes once from the keyframe before the first time to the last time.

    Raises:
      InputError: no such file, no video, or no frame within `tolerance_s` of a time.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError("no such video", where=path)
    wanted = np.asarray(times_s, np.float64)
    frames: list[NumpyArray | None] = [None] * len(wanted)
    distances = np.full(len(wanted), np.inf)
    try:
        for time_s, frame in _decode(path, float(wanted.min()), float(wanted.max())):
            nearer = np.abs(wanted - time_s) < distances
            if not nearer.any():
                continue
            pixels = frame.to_ndarray(format="rgb24")
            for i in np.flatnonzero(nearer):
                frames[i], distances[i] = pixels, abs(wanted[i] - time_s)
    except (av.error.FFmpegError, IndexError) as error:
        raise InputError(f"cannot be decoded as a video: {error}", where=path) from error
    late = distances > tolerance_s
    if late.any():
        first = int(np.flatnonzero(late)[0])
        raise InputError(
            f"has no frame at {wanted[first]:.4f} s, the nearest is {distances[first]:.4f} s away",
            where=path,
            fix="The file and the dataset's episode table do not belong together",
        )
    return np.stack([frame for frame in frames if frame is not None])


def _decode(
    path: pathlib.Path, first_s: float, last_s: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """(time, frame) from the keyframe before `first_s` to the first frame at or after `last_s`."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        # Frames are coded on their own or after others; threads only help over many of them.
        stream.thread_type = "AUTO"
        start = max(0, round(first_s / stream.time_base) - 1)
        container.seek(start, backward=True, any_frame=False, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            time_s = float(frame.pts * stream.time_base)
            yield time_s, frame
            if time_s >= last_s:
                break
