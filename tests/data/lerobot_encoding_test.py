import io

import av
import numpy as np
import pyarrow as pa
from PIL import Image

from attn_jax.data.lerobot_encoding import KEY_FRAMES, Video, column, data_schema
from tests import testing


def test_columns():
    image = {"dtype": "image", "shape": [4, 6, 3]}
    features = {
        "picture": image,
        "film": image | {"dtype": "video"},
        "state": {"dtype": "float32", "shape": [2]},
        "index": {"dtype": "int64", "shape": [1]},
    }
    schema = data_schema(features)
    assert schema.names == ["picture", "state", "index"]  # videos have their own files
    assert schema.field("state").type == pa.list_(pa.float32(), 2)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    stored = column(pictures, schema.field("picture").type).to_pylist()
    for item, picture in zip(stored, pictures, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(item["bytes"]))), picture)
    states = np.float32([[1, 2], [3, 4]])
    assert column(states, schema.field("state").type).to_pylist() == [[1, 2], [3, 4]]
    assert column(np.arange(2), schema.field("index").type).to_pylist() == [0, 1]


def test_a_video_has_many_key_frames_whatever_its_name(tmp_path):
    video = Video(tmp_path / "film.part", [16, 16, 3], fps=10)
    video.write(np.full((3, 16, 16, 3), 10, np.uint8))
    video.write(np.full((2, 16, 16, 3), 200, np.uint8))
    video.close()
    assert video.frames == 5
    with av.open(str(tmp_path / "film.part"), format="mp4") as container:
        frames = list(container.decode(video=0))
    keys = [i for i, frame in enumerate(frames) if frame.key_frame]
    assert len(frames) == 5 and keys[0] == 0 and max(np.diff([*keys, 5])) <= KEY_FRAMES
    levels = [frame.to_ndarray(format="rgb24").mean() for frame in frames]
    np.testing.assert_allclose(levels, [10] * 3 + [200] * 2, atol=4)


if __name__ == "__main__":
    testing.main()
