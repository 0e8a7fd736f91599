from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from attn_jax.core.canvas import CanvasGeometry, patchify
from attn_jax.core.errors import CheckpointError, ConfigError
from attn_jax.models.canvas import perceptual
from tests import testing


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights under torchvision's names, scaled so that features stay of order 1."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) * np.prod(shape[1:]) ** -0.5).astype(np.float32)
        for name, shape in perceptual.tensor_shapes().items()
    }


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    perceptual.save_vgg(path, random_weights())
    return path


def images(seed: int, size=(2, 32, 24, 3)) -> np.ndarray:
    return np.random.default_rng(seed).random(size, np.float32)


@pytest.mark.bridge
def test_features_and_distance_equal_torch(path):
    testing.require_module("torch")
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for level in perceptual.LEVELS:
        if layers:
            layers.append(nn.MaxPool2d(2, 2))
        for number, inputs, outputs in level:
            assert len(layers) == number, "torchvision's numbering"
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    model = nn.ModuleDict({"features": nn.Sequential(*layers)})
    model.load_state_dict({k: torch.from_numpy(v) for k, v in random_weights().items()})
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    def levels(image: np.ndarray) -> list[torch.Tensor]:
        x = (torch.from_numpy(image).permute(0, 3, 1, 2) - mean) / std
        found = []
        for part in (slice(0, 4), slice(4, 9), slice(9, 16)):
            x = model["features"][part](x)
            found.append(x)
        return found

    prediction, target = images(0) * 1.5 - 0.2, images(1)
    vgg = perceptual.load_vgg(path)
    with torch.inference_mode():
        theirs, true = levels(prediction.clip(0, 1)), levels(target)
        distance = sum((a - b).abs().mean() for a, b in zip(theirs, true, strict=True))
        for ours, their in zip(perceptual.features(vgg, jnp.asarray(target)), true, strict=True):
            assert their.std() > 0.05
            np.testing.assert_allclose(
                ours, their.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-4
            )
    ours = perceptual.perceptual_distance(vgg, jnp.asarray(prediction), jnp.asarray(target))
    assert float(ours) == pytest.approx(float(distance), rel=1e-5)


def test_loss_on_patches_is_the_distance_of_the_frames_and_has_a_gradient(path):
    geometry = CanvasGeometry((32, 32), separator=8)  # the target starts inside a patch column
    canvas = images(2, (2, *geometry.canvas_size, 3))
    start, stop = geometry.frame_columns(2)
    patches = jnp.asarray(patchify(canvas, 16)[:, geometry.target_patches()])
    loss = perceptual.load_perceptual_loss(path, geometry)
    assert float(loss(patches, patches)) == 0
    value, gradient = jax.value_and_grad(loss)(patches * 0.5, patches)
    frames = jnp.asarray(canvas[:, :, start:stop])
    expected = perceptual.perceptual_distance(perceptual.load_vgg(path), frames * 0.5, frames)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_no_path_is_an_error_that_says_what_to_set():
    with pytest.raises(ConfigError, match=r"loss\.vgg_weights"):
        perceptual.load_vgg("")


def test_only_safetensors_are_read(tmp_path):
    with pytest.raises(ConfigError, match=r"launch\.bridge --source=vgg16"):
        perceptual.load_vgg(tmp_path / "vgg16.pth")


def test_a_missing_file_is_not_downloaded(tmp_path):
    with pytest.raises(CheckpointError, match="never downloaded"):
        perceptual.load_vgg(tmp_path / "vgg16.safetensors")


def test_a_file_of_something_else(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="not a readable"):
        perceptual.load_vgg(tmp_path / "x.safetensors")


def test_all_missing_and_mis_shaped_tensors_are_named(tmp_path):
    weights = random_weights()
    del weights["features.7.bias"], weights["features.14.weight"]
    weights["features.5.weight"] = weights["features.5.weight"][:-1].copy()
    weights["features.0.bias"] = weights["features.0.bias"][None]
    safetensors.numpy.save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        perceptual.load_vgg(tmp_path / "a.safetensors")
    assert caught.value.what == (
        "is no VGG16: lacks features.7.bias, features.14.weight; has"
        " features.0.bias (1, 64) instead of (64,),"
        " features.5.weight (127, 64, 3, 3) instead of (128, 64, 3, 3)"
    )
    other = {"layer1.0.conv1.weight": np.zeros((64, 64, 3, 3), np.float32)}
    safetensors.numpy.save_file(other, tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match=r"no VGG16: lacks features\.0\.weight, "):
        perceptual.load_vgg(tmp_path / "resnet.safetensors")


if __name__ == "__main__":
    testing.main()
