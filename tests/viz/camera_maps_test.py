import numpy as np
import pytest

from attn_jax.core import geometry
from attn_jax.core.errors import LayoutError, RecordError
from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.viz.camera_maps import EpisodeView
from tests import testing
from tests.viz import recorded


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = recorded.save_run(tmp_path_factory.mktemp("run"))
    return recorded.save_run(run, number=1, full=False)


@pytest.fixture
def view(run):
    return EpisodeView.open(episode_folder(run, 0))


def test_cameras_leave_out_dummies(view):
    assert view.cameras() == recorded.CAMERAS


def test_masses_of_every_action(run):
    found = EpisodeView.open(episode_folder(run, 1)).masses()
    whole = np.mean([recorded.full_maps(3, call)[0, -1, -1] for call in range(3)], axis=(0, 1))
    made = recorded.layout()
    expected = [whole[:, made.tokens(name)].sum(-1) for name in found.names]
    np.testing.assert_allclose(found.values, np.transpose(expected), atol=1e-4)
    assert found.values.shape == (recorded.ACTIONS, len(made.groups))
    assert (found.layer, found.denoise) == (recorded.LAYERS[-1], recorded.DENOISE - 1)
    assert EpisodeView.open(episode_folder(run, 1)).masses(stream="prefix") is None


@pytest.mark.parametrize("number", [0, 1])
def test_maps_are_the_mean_over_actions(run, number):
    """With whole maps and with patch maps alone."""
    maps = EpisodeView.open(episode_folder(run, number)).maps("wrist")
    assert maps.values.shape == (3, recorded.DENOISE, 2, 3, 16, 16)
    expected = recorded.full_maps(3, 1)[0, ..., 256:512].mean(-2).reshape(4, 2, 3, 16, 16)
    np.testing.assert_allclose(maps.values[1], expected, rtol=1e-5)
    at = maps.at(layer=2, denoise=1)
    np.testing.assert_allclose(at[1], expected[1, 0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(maps.at(head=2)[1], expected[3, 1, 2], rtol=1e-5)
    assert maps.input_size == (224, 224)


def test_the_planted_object_is_found(run, view):
    """Layer 5 puts 65 % of a camera's mass on the duck in the last step; see recorded.full_maps."""
    episode = read_episode(episode_folder(run, 0))
    box = geometry.letterbox(recorded.SIZES["front"], (224, 224))
    cover = box.coverage(episode.masks["front"][1, 0], (16, 16))
    one = view.maps("front").at(layer=5, denoise=3)[1]
    on_duck = one[cover > 0].sum() / one.sum()
    assert on_duck > 0.65
    other = one[:, 8:].sum() if cover[:, 8:].sum() < cover[:, :8].sum() else one[:, :8].sum()
    assert other < 0.55 * one.sum()


def test_single_rows_need_whole_maps(run, view):
    one = view.maps("front", row=3)
    expected = recorded.full_maps(3, 0)[0, 2, 1, :, 3, :256].reshape(3, 16, 16)
    np.testing.assert_allclose(one.values[0, 2, 1], expected, rtol=1e-5)
    small = EpisodeView.open(episode_folder(run, 1))
    with pytest.raises(RecordError, match="keeps query groups"):
        small.maps("front", row=3)


def test_what_was_not_recorded(view):
    maps = view.maps("front")
    with pytest.raises(RecordError, match=r"layer 17 was not recorded.*Recorded: 2, 5"):
        maps.at(layer=17)
    with pytest.raises(RecordError, match="denoise 9 was not recorded"):
        maps.at(denoise=9)
    with pytest.raises(LayoutError, match=r"no camera 'top'.*front"):
        view.maps("top")
    with pytest.raises(LayoutError, match="verb"):
        view.maps("front", query="verb")
    with pytest.raises(RecordError, match="no maps of stream 'prefix'"):
        view.maps("front", stream="prefix")


if __name__ == "__main__":
    testing.main()
