"""Tests of attn_jax.viz.policy_examples."""

import numpy as np
import pytest

from attn_jax.data.episodes import episodes_of, read_episode
from attn_jax.viz import policy_examples
from attn_jax.viz.camera_maps import EpisodeView
from attn_jax.viz.policy_examples import Example
from attn_jax.viz.report import Picture, Text
from tests import testing
from tests.viz import recorded


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    run = recorded.save_run(tmp_path_factory.mktemp("run"), calls=3)
    folder = next(iter(episodes_of(run)))
    episode, view = read_episode(folder), EpisodeView.open(folder)
    return Example(
        name=folder.name,
        outcome="success",
        prompt="pick the duck",
        steps=episode.env_step.tolist(),
        images=episode.images,
        masks=episode.masks,
        objects=episode.objects,
        view=view,
        others={"other": ("pick the cup", view)},
    )


def test_every_camera_has_its_figures(example):
    (section,) = policy_examples.sections([example])
    shown = {block.name: block for block in section.blocks if isinstance(block, Picture)}
    kinds = {"objects", "time", "words", "prompts", "heads", "denoising"}
    of_cameras = {f"{kind}-1-{camera}" for kind in kinds for camera in recorded.CAMERAS}
    assert set(shown) == of_cameras | {"budget-1"}
    where = shown["words-1-front"].data["maps_of"]
    assert where["camera"] == "front" and where["variants"] == ["other"]
    assert where["layer"] == recorded.LAYERS[-1] and where["env_step"] == example.steps[0]
    assert shown["time-1-wrist"].data["maps_of"]["env_step"] == example.steps
    shares = shown["budget-1"].data["shares"]
    np.testing.assert_allclose(shares["text"], [0.3] * recorded.ACTIONS, atol=1e-3)
    assert "pick the duck" in section.blocks[0].paragraphs[0]
    assert section.title == "Example 1: success"
    for block in section.blocks:
        if isinstance(block, Picture):
            assert np.ptp(block.pixels) > 100 and block.alt and block.caption


def test_a_camera_without_maps_says_so(example):
    images = {"side": example.images["front"]}
    (told, problem) = policy_examples.blocks(
        Example(**{**vars(example), "images": images}), 1, full=False
    )
    assert isinstance(told, Text) and "Camera side: no camera 'side'" in problem.paragraphs[0]


if __name__ == "__main__":
    testing.main()
