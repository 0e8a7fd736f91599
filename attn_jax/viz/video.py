"""Videos that a browser plays: H.264 in MP4, VP9 in WebM, lossless FFV1 in MKV.

The suffix of the file chooses. Frames are (h, w, 3) uint8 RGB of one size; an odd side is made even
by repeating its last row or column, as H.264 demands. A video is written under another name and
renamed when it is whole, so a file that exists can be played.

    with VideoWriter("RUN/videos/eval_episode_00000.mp4", fps=20) as video:
        for frame in frames:
            video.append(frame)
    for frame in read_frames("RUN/videos/eval_episode_00000.mp4"): ...
"""

from __future__ import annotations

import dataclasses
import fractions
import pathlib
import types
from collections.abc import Iterable, Iterator

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from attn_jax.core import files
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.core.typing import NumpyArray, PathLike, UInt8

Frame = UInt8[NumpyArray, "h w 3"]


@dataclasses.dataclass(frozen=True)
class Codec:
    """How frames are coded: encoder, pixel format, its options and those of the container."""

    encoder: str
    pixels: str
    options: dict[str, str]
    container: dict[str, str] = dataclasses.field(default_factory=dict)


#: By suffix. Constant quality: no visible loss in overlays at 224 px and above.
CODECS = types.MappingProxyType(
    {
        ".mp4": Codec(
            "libx264",
            "yuv420p",
            {"crf": "18", "preset": "veryfast"},
            {"movflags": "+faststart"},  # the index comes first: plays before it is loaded
        ),
        ".webm": Codec(
            "libvpx-vp9",
            "yuv420p",
            {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "6"},
        ),
        ".mkv": Codec("ffv1", "bgr0", {"level": "3"}),
    }
)


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video file holds: (height, width) pixels, frames per second, number of frames."""

    size: tuple[int, int]
    fps: float
    num_frames: int


class VideoWriter:
    """Writes one video; the file appears when the writer is closed without a failure.

    Attributes:
      path: the file.
      num_frames: frames written so far.
    """

    def __init__(self, path: PathLike, *, fps: float | int):
        """Opens a video for writing; makes the folder.

        Args:
          path: ends in .mp4, .webm or .mkv.
          fps: frames per second of the playback; simulators step at 20, analysis plays at 2 to 5.

        Raises:
          ConfigError: another suffix, or a rate that is not positive.
        """
        self.path = pathlib.Path(path)
        if self.path.suffix not in CODECS:
            raise ConfigError(
                f"no video format for {self.path.suffix!r}",
                where=path,
                fix=f"Let the file name end in one of {', '.join(CODECS)}",
            )
        if not fps > 0:
            raise ConfigError(f"a video needs a positive frame rate, got {fps}", where=path)
        self._codec = CODECS[self.path.suffix]
        self._fps = fractions.Fraction(fps).limit_denominator(1001)
        self._size: tuple[int, int] | None = None
        self.num_frames = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(f"{self.path.stem}.part{self.path.suffix}")
        self._container = av.open(self._part, "w", options=dict(self._codec.container))
        self._stream: VideoStream | None = None

    def append(self, frame: Frame) -> None:
        """Adds a frame.

        Raises:
          ConfigError: the frame has another size than the first one.
          DiskFullError: no space left.
        """
        size = (frame.shape[0], frame.shape[1])
        if self._stream is None:
            self._size, self._stream = size, self._open_stream(size)
        if size != self._size:
            raise ConfigError(
                f"frame {self.num_frames} is {size}, the video is {self._size} (height, width)",
                where=self.path,
            )
        padded = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(padded, format="rgb24")
        picture.pts = self.num_frames
        with files.disk_errors(self.path, what="a video"):
            self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def _open_stream(self, size: tuple[int, int]) -> VideoStream:
        stream = self._container.add_stream(
            self._codec.encoder, rate=self._fps, options=dict(self._codec.options)
        )
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        stream.pix_fmt = self._codec.pixels
        stream.codec_context.time_base = 1 / self._fps
        return stream

    def close(self) -> None:
        """Finishes the file.

        Raises:
          ConfigError: no frame was added; no file is left.
          DiskFullError: no space left; no file is left.
        """
        if self._stream is None:
            self.abort()
            raise ConfigError("a video needs at least one frame", where=self.path)
        try:
            with files.disk_errors(self.path, what="a video"):
                self._container.mux(self._stream.encode(None))
                self._container.close()
                self._part.replace(self.path)
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise

    def abort(self) -> None:
        """Stops and removes what was written; an earlier file of that name stays."""
        try:
            self._container.close()  # writes a trailer, which may fail for the reason we stop for
        except (FFmpegError, OSError):
            pass
        finally:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write_video(path: PathLike, frames: Iterable[Frame], *, fps: float | int) -> pathlib.Path:
    """Writes frames, taken one at a time, as a video; see `VideoWriter`. Returns the path."""
    with VideoWriter(path, fps=fps) as video:
        for frame in frames:
            video.append(frame)
    return video.path


def read_frames(path: PathLike) -> Iterator[Frame]:
    """Yields the frames of a video in order; only a few are in memory.

    Raises:
      InputError: missing, or no video that can be decoded.
    """
    with _open(path) as container:
        try:
            for frame in container.decode(container.streams.video[0]):
                yield frame.to_ndarray(format="rgb24")
        except FFmpegError as error:
            raise InputError(f"video is damaged: {error.strerror}", where=path) from error


def read_info(path: PathLike) -> VideoInfo:
    """Size, rate and length of a video; its packets are counted, its frames are not decoded.

    Raises:
      InputError: missing, or no video.
    """
    with _open(path) as container:
        stream = container.streams.video[0]
        try:
            count = sum(packet.size > 0 for packet in container.demux(stream))
        except FFmpegError as error:
            raise InputError(f"video is damaged: {error.strerror}", where=path) from error
        rate, size = stream.average_rate or stream.guessed_rate, (stream.height, stream.width)
    return VideoInfo(size, float(rate or 0), count)


def _open(path: PathLike) -> InputContainer:
    try:
        container = av.open(pathlib.Path(path), "r")
    except FileNotFoundError as error:
        raise InputError("video is missing", where=path) from error
    except (FFmpegError, OSError) as error:
        raise InputError(f"not a video: {error.strerror}", where=path) from error
    if not container.streams.video:
        container.close()
        raise InputError("holds no video stream", where=path)
    return container
