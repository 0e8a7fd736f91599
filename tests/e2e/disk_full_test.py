"""A full disk is one clear error in every writer, and leaves no half of a file behind."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from attn_jax.bridge import seed_hdf5, seed_write
from attn_jax.bridge.processors_write import write_files
from attn_jax.bridge.safetensors_reader import Entry, write_safetensors
from attn_jax.bridge.torch_weights import write_torch_file
from attn_jax.core import files
from attn_jax.core.errors import DiskFullError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.data.lerobot_writer import LeRobotWriter, image_feature, vector_feature
from attn_jax.data.parts import Part, write_part
from attn_jax.data.splits import export_part
from attn_jax.train.writers import JsonlWriter
from attn_jax.viz.report import Report, write_report
from launch import app, evaluate, predict
from launch.episode_analysis import write_table
from tests import testing
from tests.bridge import seed_hdf5_test
from tests.data import fake_droid, fake_sessions

ARRAY = np.random.default_rng(0).random((8, 8)).astype(np.float32)
CLIP = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)


def prefix() -> AttentionRecord:
    layout = TokenLayout(8, (TokenGroup("image", tuple(range(8))),))
    values = np.full((1, 1, 1, 1, 8, 8), 1 / 8, np.float32)
    return AttentionRecord("prefix", values, layout, (0,), (0,))


def metrics(path: pathlib.Path) -> None:
    with JsonlWriter(path) as writer:
        writer.write({"step": 1, "loss": 0.5})


def truncated_metrics(path: pathlib.Path) -> None:
    with JsonlWriter(path) as writer:
        writer.truncate(1)


def dataset(storage: str) -> Callable[[pathlib.Path], None]:
    def write(path: pathlib.Path) -> None:
        features = {"image": image_feature(32, 32, storage), "action": vector_feature(("x",))}
        with LeRobotWriter(path, fps=10, features=features, robot_type="toy") as writer:
            writer.add_episode({"image": CLIP, "action": np.zeros((6, 1), np.float32)}, "go")

    return write


def exported_session(path: pathlib.Path) -> None:
    export_part(Part("part", path.parent / "session", 0, 3), path)


WRITERS: dict[str, Callable[[pathlib.Path], object]] = {
    "metrics.jsonl": metrics,
    "truncated.jsonl": truncated_metrics,
    "results.json": lambda path: app.write_json(path, {"loss": 0.5}),
    "run": lambda path: app.prepare_workdir(path, app.ml_collections.ConfigDict({"seed": 0})),
    "pictures.npz": lambda path: evaluate.write_pictures(path, {"target": CLIP}),
    "outputs.npz": lambda path: predict.write_outputs(path, {"actions": ARRAY}),
    "report.html": lambda path: write_report(Report("A run", ()), path),
    "table": lambda path: write_table(pd.DataFrame({"value": ARRAY[0]}), path),
    "images": dataset("image"),
    "videos": dataset("video"),
    "part.json": lambda path: write_part(Part("part", path.parent / "session", 0, 3), path),
    "exported": exported_session,
    "droid": lambda path: fake_droid.save_droid(path),
    "droid_without_frames": lambda path: fake_droid.save_droid(path, masks=None),
    "a.safetensors": lambda path: write_safetensors(
        path, {"a": Entry(ARRAY.shape, ARRAY.dtype, lambda: ARRAY)}
    ),
    "processors": lambda path: write_files(path, {"normaliser.json": b"{}"}),
    "layers.npz": lambda path: seed_write.write_layers(path, prefix()),
    "layers": lambda path: seed_write.write_layers(path, prefix()),
    "frame.h5": lambda path: seed_hdf5.write_frame(
        path, seed_hdf5.read_frame(path.parent / "00008_base.h5")
    ),
    "array.npy": lambda path: files.write_file(
        path, lambda file: np.save(file, ARRAY), what="an array"
    ),
    "tensors.pt": lambda path: write_torch_file(path, {"weights": ARRAY}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named(tmp_path, name):
    if name == "tensors.pt":
        testing.require_module("torch")
    fake_sessions.write_session(tmp_path / "session")
    seed_hdf5_test.save(tmp_path / "00008_base.h5")
    (tmp_path / "truncated.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    write = WRITERS[name]
    with (
        pytest.raises(DiskFullError, match=r"file too large while writing .*Free some space"),
        testing.full_disk(),
    ):
        write(tmp_path / name)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".partial")]
    if name == "truncated.jsonl":
        assert (tmp_path / name).read_text() == '{"step": 1}\n{"step": 2}\n'
    if not (tmp_path / name).is_dir():  # what can be started again on the spot is whole then
        write(tmp_path / name)


def test_what_was_there_before_stays(tmp_path):
    path = tmp_path / "results.json"
    app.write_json(path, {"loss": 0.5})
    with pytest.raises(DiskFullError), testing.full_disk():
        app.write_json(path, {"loss": 0.25})
    assert app.read_json(path) == {"loss": 0.5}


if __name__ == "__main__":
    testing.main()
