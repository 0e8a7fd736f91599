import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, DiskFullError, InputError
from attn_jax.viz import video
from tests import testing


def gradient(number, size=(48, 64)):
    """A smooth picture whose red level says which frame it is."""
    rows, columns = np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1])
    picture = np.zeros((*size, 3), np.uint8)
    picture[..., 0] = 40 * number + 20
    picture[..., 1] = rows[:, None]
    picture[..., 2] = columns
    return picture


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_frames_come_back_in_order_and_look_the_same(tmp_path, suffix):
    frames = [gradient(i) for i in range(6)]
    path = video.write_video(tmp_path / "new" / f"a{suffix}", frames, fps=5)
    read = list(video.read_frames(path))
    assert len(read) == 6
    for found, expected in zip(read, frames, strict=True):
        assert np.abs(found.astype(int) - expected).mean() < 4
        assert abs(int(found[..., 0].mean()) - int(expected[..., 0].mean())) < 5
    assert video.read_info(path) == video.VideoInfo((48, 64), 5.0, 6)
    assert [f.name for f in path.parent.iterdir()] == [path.name]


def test_mkv_is_lossless(tmp_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (8, 10, 3), np.uint8) for _ in range(3)]
    path = video.write_video(tmp_path / "a.mkv", frames, fps=20)
    for found, expected in zip(video.read_frames(path), frames, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_mp4_has_what_browsers_want(tmp_path):
    """H.264 in yuv420p, and the index (moov) before the data (mdat)."""
    path = video.write_video(tmp_path / "a.mp4", [gradient(0)] * 3, fps=2.5)
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate is not None and float(stream.average_rate) == 2.5


@pytest.mark.parametrize(("size", "even"), [((47, 63), (48, 64)), ((47, 64), (48, 64))])
def test_odd_sides_repeat_their_edge(tmp_path, size, even):
    path = video.write_video(tmp_path / "a.mp4", [gradient(1, size)] * 2, fps=2)
    assert video.read_info(path).size == even
    frame = next(video.read_frames(path)).astype(int)
    assert np.abs(frame[: size[0], : size[1]] - gradient(1, size)).mean() < 4
    assert np.abs(frame[-1, : size[1]] - gradient(1, size)[-1]).mean() < 8


def test_frames_of_another_size_are_refused_and_no_file_is_left(tmp_path):
    with pytest.raises(ConfigError, match=r"frame 1 is \(20, 20\), the video is \(48, 64\)"):
        video.write_video(tmp_path / "a.mp4", [gradient(0), gradient(0, (20, 20))], fps=2)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_earlier_video(tmp_path):
    path = video.write_video(tmp_path / "a.mp4", [gradient(0)] * 2, fps=2)
    good = path.read_bytes()
    with pytest.raises(RuntimeError, match="policy failed"), video.VideoWriter(path, fps=2) as file:
        file.append(gradient(1))
        raise RuntimeError("policy failed")
    with pytest.raises(ConfigError, match="at least one frame"):
        video.write_video(path, [], fps=2)
    assert path.read_bytes() == good and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "fps", "message"),
    [("a.avi", 2, "'.avi'.*mp4"), ("a", 2, "no video format"), ("a.mp4", 0, "positive")],
)
def test_bad_settings(tmp_path, name, fps, message):
    with pytest.raises(ConfigError, match=message):
        video.VideoWriter(tmp_path / name, fps=fps)


def test_files_that_are_no_video(tmp_path):
    with pytest.raises(InputError, match="video is missing"):
        next(video.read_frames(tmp_path / "a.mp4"))
    (tmp_path / "a.mp4").write_bytes(b"text" * 100)
    with pytest.raises(InputError, match="not a video"):
        video.read_info(tmp_path / "a.mp4")


def test_full_disk(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (99, 64, 64, 3), np.uint8)
    with pytest.raises(DiskFullError, match="while writing a video"), testing.full_disk(20_000):
        video.write_video(tmp_path / "a.mp4", iter(noise), fps=5)
    assert list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    testing.main()
