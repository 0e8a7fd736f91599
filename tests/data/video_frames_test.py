from __future__ import annotations

import numpy as np
import pytest

from attn_jax.core.errors import InputError
from attn_jax.data.video_frames import frames_at
from tests import testing
from tests.data import small_dataset as small


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    root = small.write_dataset(tmp_path_factory.mktemp("video"), video=True)
    return root / f"videos/{small.CAMERAS[0]}/chunk-000/file-000.mp4"


def test_order_and_repeats(video):
    shown = frames_at(video, [0.9, 0.2, 0.9])
    np.testing.assert_array_equal(shown[0], shown[2])
    np.testing.assert_array_equal(shown[1:2], frames_at(video, [0.2]))
    assert np.abs(shown[0].astype(int) - shown[1]).mean() > 1


def test_bad_times_and_files(video, tmp_path):
    with pytest.raises(InputError, match=r"no frame at 0\.2500 s, the nearest is 0\.0500 s"):
        frames_at(video, [0.2, 0.25])
    with pytest.raises(InputError, match="no such video"):
        frames_at(tmp_path / "none.mp4", [0.0])
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(InputError, match="cannot be decoded"):
        frames_at(tmp_path / "text.mp4", [0.0])


if __name__ == "__main__":
    testing.main()
