from __future__ import annotations

import numpy as np
import pytest

from attn_jax.bridge.canvas_pth import read_canvas_pth
from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import CheckpointError
from tests import testing

testing.require_module("torch")
pytestmark = pytest.mark.bridge

GEOMETRY = CanvasGeometry((48, 32), separator=16)
SIZES = {"dim": 32, "depth": 2, "decoder_dim": 16, "decoder_depth": 3, "head_dim": 16}


def change(path, edit):
    """Rewrites a checkpoint after `edit` has changed its entries."""
    import torch

    saved = torch.load(path, weights_only=True)
    edit(saved)
    torch.save(saved, path)


@pytest.fixture
def path(tmp_path):
    from tests.bridge.fake_checkpoints import save_canvas_pth

    save_canvas_pth(tmp_path / "model.pth", GEOMETRY, seed=0, **SIZES)
    return tmp_path / "model.pth"


def test_sizes_are_inferred_and_every_tensor_is_accounted_for(path):
    found = read_canvas_pth(path, head_dim=16)
    config = found.config
    assert config.geometry == GEOMETRY
    assert (config.dim, config.encoder_depth) == (32, 2)
    assert (config.decoder_dim, config.decoder_depth) == (16, 3)
    assert (config.positions, config.decode, config.mlp_ratio) == ("compat", "full", 4.0)
    assert found.report.complete
    assert len(found.report.loaded) + len(found.report.ignored) == 14 + 12 * 5
    assert set(found.report.ignored) == {"pos_embed", "decoder_pos_embed"}
    assert found.facts["samples_seen"] == 1234


def test_the_default_model_has_134_tensors(tmp_path):
    from tests.bridge.fake_checkpoints import save_canvas_pth

    save_canvas_pth(tmp_path / "model.pth", CanvasGeometry((64, 64)), seed=0)
    found = read_canvas_pth(tmp_path / "model.pth")
    assert found.report.complete
    assert len(found.report.loaded) == 132
    leaves = sum(np.size(x) for x in _leaves(found.params))
    assert leaves == 8_359_168


def _leaves(tree):
    for value in tree.values():
        yield from _leaves(value) if isinstance(value, dict) else [value]


def test_a_missing_tensor_and_a_strange_one_are_reported(path):
    def edit(saved):
        saved["model_state_dict"]["norm.gain"] = saved["model_state_dict"].pop("norm.weight")

    change(path, edit)
    report = read_canvas_pth(path, head_dim=16).report
    assert report.missing == ("encoder_norm/scale",)
    assert report.unexpected == ("norm.gain",)
    with pytest.raises(CheckpointError, match="encoder_norm/scale"):
        report.require(path)


def test_a_mis_shaped_tensor_is_reported(path):
    def edit(saved):
        weights = saved["model_state_dict"]
        weights["blocks.1.mlp.fc2.weight"] = weights["blocks.1.mlp.fc2.weight"][:, :-1].clone()

    change(path, edit)
    (bad,) = read_canvas_pth(path, head_dim=16).report.mis_shaped
    assert bad.source == "blocks.1.mlp.fc2.weight"
    assert (bad.got, bad.expected) == ((127, 32), (128, 32))


def test_other_positions_are_refused(path):
    def edit(saved):
        saved["model_state_dict"]["decoder_pos_embed"][0, 3, 4] += 0.1

    change(path, edit)
    with pytest.raises(CheckpointError, match=r"decoder_pos_embed.*differs from ours by 0\.1"):
        read_canvas_pth(path, head_dim=16)


def test_a_canvas_of_another_size_than_the_tables_is_refused(path):
    change(path, lambda saved: saved["config"].update(frame_size=(64, 32)))
    with pytest.raises(CheckpointError, match="'pos_embed' has shape"):
        read_canvas_pth(path, head_dim=16)


def test_a_config_without_sizes_is_refused(path):
    change(path, lambda saved: saved["config"].pop("separator_width"))
    with pytest.raises(CheckpointError, match="lacks separator_width"):
        read_canvas_pth(path, head_dim=16)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frame_size", 64.0),
        ("frame_size", (64,)),
        ("frame_size", "ab"),
        ("separator_width", 16.0),
        ("canvas_history_size", None),
    ],
)
def test_a_config_with_odd_sizes_is_refused(path, field, value):
    change(path, lambda saved: saved["config"].update({field: value}))
    with pytest.raises(CheckpointError, match="must hold whole pixels and frames"):
        read_canvas_pth(path, head_dim=16)


def test_a_bare_state_dict_is_refused(path):
    def edit(saved):
        weights = saved.pop("model_state_dict")
        saved.update(weights)

    change(path, edit)
    with pytest.raises(CheckpointError, match="model_state_dict"):
        read_canvas_pth(path)


if __name__ == "__main__":
    testing.main()
