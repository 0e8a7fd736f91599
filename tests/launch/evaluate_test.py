"""Recording the attention of predictions. The command itself is run in tests/e2e/demo_test.py."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.data.parts import Part, stretch
from attn_jax.data.pipeline import CanvasSource, load_frames
from attn_jax.models.canvas.model import CanvasConfig, CanvasModel
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader
from attn_jax.probe.verify import verify
from configs import rollout
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


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--workdir={file}", "--workdir is a file"),
        ("--record={file}", "is a file. Name a folder for the record"),
        ("--capture=layers=9", "layers: 9 is outside"),
        ("--capture=queries=action", "unknown token group 'action'"),
    ],
)
def test_what_cannot_be_written_or_captured_is_refused_before_the_evaluation(
    tmp_path, monkeypatch, flag, said
):
    (tmp_path / "file").touch()
    session = write_session(tmp_path / "s", 8)
    blank = np.zeros((1, *CONFIG.geometry.canvas_size, 3), np.float32)
    params = jax.eval_shape(CanvasModel(CONFIG).init, jax.random.key(0), blank)["params"]
    metadata = {"family": "canvas", "model": CONFIG.to_json()}
    monkeypatch.setattr(evaluate, "load_metadata", lambda *_, **__: metadata)
    monkeypatch.setattr(evaluate, "load_params", lambda *_, **__: params)
    monkeypatch.setattr(evaluate.canvas_evaluation, "evaluate", None)  # not to be reached
    words = ["evaluate", "--checkpoint=x", f"--data={session}", "--capture=all"]
    words += [f"--workdir={tmp_path / 'out'}", flag.format(file=tmp_path / "file")]
    evaluate.flags.FLAGS(words)
    with pytest.raises(InputError, match=said):
        evaluate.main()


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


def test_data_that_was_trained_on_is_named(tmp_path):
    session = write_session(tmp_path / "s", 8)
    parts = [Part("seen", session, 0, 4), Part("held_out", session, 4, 8)]
    metadata = {"stretches": [dataclasses.asdict(stretch(parts[0]))]}
    assert evaluate.trained_on(parts, metadata) == ["seen"]
    assert evaluate.trained_on(parts[1:], metadata) == []
    assert evaluate.trained_on(parts, {}) is None


def test_an_existing_record_is_refused_before_any_work(tmp_path):
    (tmp_path / "attention").mkdir()
    with flagsaver.flagsaver(workdir=str(tmp_path)):
        assert evaluate._record_folder() == tmp_path / "attention"
        (tmp_path / "attention" / "run.json").write_text("{}")
        with pytest.raises(ConfigError, match="holds an attention record already"):
            evaluate._record_folder()


def test_env_is_short_for_a_config_whose_fields_can_be_set():
    for words in (["--env=libero,tiny"], ["--env", "libero,tiny"], ["-env=libero,tiny"]):
        command = evaluate.expanded(["evaluate", *words, "--config.episodes=3", "--seed=1"])
        name, config, *rest = command
        assert name == "evaluate" and rest == ["--config.episodes=3", "--seed=1"]
        assert config == f"--config={rollout.__file__}:libero,tiny"
    plain = ["evaluate", "--config=configs/rollout.py:libero", "--episodes=x"]
    assert evaluate.expanded(plain) == plain
    for words in (["--env=libero", "--config=x.py"], ["--env=libero", "--env=tabletop"]):
        with pytest.raises(ConfigError, match="not both"):
            evaluate.expanded(["evaluate", *words])


@pytest.mark.slow
def test_the_embedded_policy_on_a_tabletop_of_ones_own(tmp_path):
    testing.require_module("tokenizers")
    command = (
        "-m", "launch.evaluate", "--checkpoint=robots/tabletop/policy",
        "--env=tabletop,tiny,size=64", f"--workdir={tmp_path}", "--json",
    )  # fmt: skip
    done = testing.run_python(
        *command, "--config.episodes=2", "--config.video=false", "--config.env.distractors=2"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["n_episodes"] == 2
    assert "no success after 4 steps; 1 of 2; about" in done.stderr
    assert len(read_episode(episode_folder(tmp_path, 1)).objects) == 3
    refused = testing.run_python(*command)
    assert refused.returncode == 2
    assert "config.env.distractors: was 2, now 1" in refused.stderr.splitlines()[-1]
    assert "config.video: was False, now True" in refused.stderr.splitlines()[-1]
    both = testing.run_python(*command, "--config=configs/rollout.py:tabletop")
    assert both.returncode == 2 and "not both" in both.stderr.splitlines()[-1]


if __name__ == "__main__":
    testing.main()
