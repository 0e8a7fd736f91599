"""Recording the attention of predictions. The command itself is run in tests/e2e/demo_test.py."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError
from attn_jax.data.pipeline import CanvasSource, load_frames
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader
from attn_jax.probe.verify import verify
from launch import evaluate
from tests import testing
from tests.data.fake_sessions import write_session

CONFIG = CanvasConfig(
    CanvasGeometry((16, 16), separator=8, patch=8),
    dim=16,
    encoder_depth=1,
    decoder_dim=16,
    decoder_depth=2,
    head_dim=8,
)


@pytest.fixture(autouse=True)
def parsed_flags():
    with flagsaver.flagsaver():
        evaluate.flags.FLAGS(["evaluate", "--checkpoint=x", "--data=y", "--calls=3"])
        yield


@pytest.mark.parametrize("decode", ["last_layer", "slot"])
def test_the_record_is_that_of_the_masked_prediction(tmp_path, decode):
    config = dataclasses.replace(CONFIG, decode=decode)
    source = CanvasSource(load_frames(write_session(tmp_path / "s", 8)), config.geometry)
    blank = np.zeros((1, *config.geometry.canvas_size, 3), np.float32)
    params = jax.jit(CanvasModel(config).init)(jax.random.key(0), blank)["params"]
    metadata = {"config_hash": "x", "config": {"seed": 3}}
    selection = Selection.parse("layers=all;reduce=full;dtype=float32;every_n=2")
    pictures = evaluate.record_attention(
        config, params, source, selection, tmp_path / "attention", metadata
    )
    assert verify(tmp_path / "attention").ok
    reader = RecordReader(tmp_path / "attention")
    assert reader.num_calls == len(pictures["attention_canvas"]) == 2
    decoder = reader.record("decoder")
    assert decoder.layers == (0, 1)
    assert decoder.select(query="target", key="sep1").shape == (2, 1, 2, 2, 2, 2, 2, 1)
    # The maps are those of the prediction: target pixels have no influence on them.
    hidden = pictures["attention_canvas"][:1].copy()
    start, stop = config.geometry.frame_columns(2)
    hidden[:, :, start:stop] = 7
    recorded = evaluate.recordable(config)
    _, sown = CanvasModel(recorded).apply(
        {"params": params}, evaluate.as_float(hidden), mutable=["attn"]
    )
    maps = sown["attn"]["decoder"]["block_1"]["attention"]["probs"]
    np.testing.assert_allclose(np.asarray(decoder.values)[0, 0, 1], maps[0], atol=1e-5)


def test_an_existing_record_is_refused_before_any_work(tmp_path):
    (tmp_path / "attention").mkdir()
    with flagsaver.flagsaver(workdir=str(tmp_path)):
        assert evaluate._record_folder() == tmp_path / "attention"
        (tmp_path / "attention" / "run.json").write_text("{}")
        with pytest.raises(ConfigError, match="holds an attention record already"):
            evaluate._record_folder()


if __name__ == "__main__":
    testing.main()
