import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import DiskFullError, EpisodeError
from attn_jax.data import episodes
from attn_jax.data.episodes import Episode, episodes_of, read_episode, write_episode
from tests import testing
from tests.data.fake_episodes import equal, fake_episode


@hypothesis.given(
    calls=st.integers(1, 4),
    size=st.tuples(st.integers(1, 9), st.integers(1, 19)),
    num_objects=st.integers(0, 3),
    seed=st.integers(0, 100),
    with_actions=st.booleans(),
    calibrated=st.booleans(),
)
def test_round_trip(tmp_path_factory, calls, size, num_objects, seed, with_actions, calibrated):
    episode = fake_episode(
        calls, size=size, num_objects=num_objects, seed=seed, calibrated=calibrated
    )
    if not with_actions:
        episode = dataclasses.replace(episode, actions=None)
    folder = tmp_path_factory.mktemp("episode")
    write_episode(folder, episode)
    equal(read_episode(folder), episode)
    actions = episodes.read_actions(folder)
    assert (actions is None) != with_actions
    np.testing.assert_array_equal(actions, episode.actions)


def test_no_masks_at_all(tmp_path):
    episode = dataclasses.replace(fake_episode(), objects=(), roles={}, masks={})
    write_episode(tmp_path, episode)
    equal(read_episode(tmp_path), episode)


def test_an_object_without_a_role_is_other():
    episode = dataclasses.replace(fake_episode(num_objects=2), roles={"object0": "target"})
    assert episode.roles == {"object0": "target", "object1": "other"}


def test_info_is_what_will_be_read():
    episode = dataclasses.replace(fake_episode(), info={"prompt": "go", "size": (1, 2)})
    assert episode.info == {"prompt": "go", "size": [1, 2]} and episode.prompt == "go"


def test_nearest_call():
    episode = dataclasses.replace(fake_episode(3), env_step=np.array([2, 10, 20]))
    assert [episode.nearest_call(step) for step in (2, 9, 10, 19, 20, 99)] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(EpisodeError, match="before the first call"):
        episode.nearest_call(1)


BASE = fake_episode(3, size=(4, 5), num_objects=2)
SEEN = Calibration(np.ones((3, 4, 5)), np.tile(np.eye(4), (3, 1, 1)), np.eye(3))
NAN = BASE.state.copy()
NAN[1, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env_step": np.array([0, 8])}, r"images of 'front'.*expected uint8 of \(2, any"),
        ({"env_step": np.array([0, 8, 8])}, "must increase"),
        ({"env_step": np.array([-1, 8, 9])}, "must increase"),
        ({"env_step": np.zeros(0, np.int64)}, "at least one call"),
        ({"env_step": np.zeros(3)}, "env_step: float64"),
        ({"images": {"front": np.zeros((3, 4, 5, 3), np.float32)}}, "float32"),
        ({"images": {"front": np.zeros((3, 4, 5), np.uint8)}}, r"\(3, any, any, 3\)"),
        ({"images": {"": BASE.images["front"]}, "masks": {}, "info": {}}, "needs a name"),
        ({"masks": {"top": BASE.masks["front"]}}, "'top' that has no images.*front, wrist"),
        ({"masks": {"front": BASE.masks["front"][:, :1]}}, r"bool of \(3, 2, 4, 5\)"),
        ({"masks": {"front": BASE.masks["front"].astype(np.uint8)}}, "expected bool"),
        ({"masks": {"front": BASE.masks["front"][..., :4]}}, r"bool of \(3, 2, 4, 5\)"),
        ({"objects": ("object0", "object0")}, "repeat"),
        ({"roles": {"spoon": "target"}}, "no object"),
        ({"calibration": {"top": SEEN}}, "calibration of 'top', which has no images.*front, wrist"),
        ({"calibration": {"front": SEEN.at(np.arange(2))}}, r"depth, .*'front'.*\(3, 4, 5\)"),
        (
            {"calibration": {"front": dataclasses.replace(SEEN, pose=np.full((3, 4, 4), np.nan))}},
            "pose, .*NaN or infinite at call 0",
        ),
        (
            {"calibration": {"front": dataclasses.replace(SEEN, intrinsics=np.eye(2))}},
            r"intrinsics, .*\(3, 3\)",
        ),
        ({"roles": {"object0": "goal"}}, "role 'goal'.*Use one of"),
        ({"state": BASE.state.astype(np.float64)}, "state: float64"),
        ({"state": NAN}, "state: NaN or infinite at call 1"),
        ({"actions": np.full((3, 2, 7), np.inf, np.float32)}, "actions: NaN or infinite at call 0"),
        ({"actions": np.zeros((3, 7), np.float32)}, "actions"),
        ({"info": {"x": np.float32(1)}}, "not JSON-compatible"),
        ({"info": {"x": float("nan")}}, "not JSON-compatible"),
        ({"info": {"success": 1}}, "success must be"),
        ({"info": {"prompt": 1}}, "prompt must be"),
        ({"info": {"geometry": {"top": {"model_rot180": True}}}}, "geometry of 'top'"),
        ({"info": {"geometry": {"front": {"turned": True}}}}, "geometry of 'front'"),
        ({"info": {"geometry": {"front": {"model_rot180": 1}}}}, "true or false"),
    ],
)
def test_inconsistent_episodes_are_refused(change, message):
    with pytest.raises(EpisodeError, match=message):
        dataclasses.replace(BASE, **change)


def test_run_folder_lists_finished_episodes_in_order(tmp_path):
    for number in (2, 0, 10):
        write_episode(episodes.episode_folder(tmp_path, number), fake_episode(seed=number))
    (tmp_path / "episodes" / "episode_00001").mkdir()  # unfinished
    found = list(episodes_of(tmp_path))
    assert [f.name for f in found] == ["episode_00000", "episode_00002", "episode_00010"]
    assert list(episodes_of(found[1])) == [found[1]]
    with pytest.raises(EpisodeError, match="no recorded episodes"):
        list(episodes_of(tmp_path / "episodes"))


def test_variants_by_key(tmp_path):
    assert episodes.variants_of(tmp_path) == {}
    for key in ("noise_1", "banana"):
        (tmp_path / "variants" / key).mkdir(parents=True)
    (tmp_path / "variants" / "notes.txt").touch()
    assert episodes.variants_of(tmp_path) == {
        key: tmp_path / "variants" / key for key in ("banana", "noise_1")
    }


def test_damage_is_named(tmp_path):
    with pytest.raises(EpisodeError, match="no recorded episode here"):
        read_episode(tmp_path)
    write_episode(tmp_path, fake_episode())
    arrays, meta = tmp_path / episodes.ARRAYS, tmp_path / episodes.META
    good, text = arrays.read_bytes(), meta.read_text()

    arrays.write_bytes(good[:-7])
    with pytest.raises(EpisodeError, match=r"npz: does not belong.*Record the episode again"):
        read_episode(tmp_path)
    arrays.unlink()
    with pytest.raises(EpisodeError, match="npz: file is missing"):
        read_episode(tmp_path)

    arrays.write_bytes(b"no archive")
    checksum = episodes._checksum(arrays)
    meta.write_text(json.dumps(json.loads(text) | {"crc32": checksum}))
    with pytest.raises(EpisodeError, match="npz: file is damaged"):
        read_episode(tmp_path)

    arrays.write_bytes(good)
    for change in ({"cameras": ["top"]}, {"mask_width": {"front": 4}}, {"info": {"success": 2}}):
        meta.write_text(json.dumps(json.loads(text) | change))
        with pytest.raises(EpisodeError, match=r"npz: "):
            read_episode(tmp_path)
    meta.write_text(json.dumps(json.loads(text) | {"format": "other"}))
    with pytest.raises(EpisodeError, match="not of format"):
        read_episode(tmp_path)
    meta.write_text(json.dumps({k: v for k, v in json.loads(text).items() if k != "objects"}))
    with pytest.raises(EpisodeError, match="'objects' is missing"):
        read_episode(tmp_path)
    meta.write_text(text[:-20])
    with pytest.raises(EpisodeError, match="json: file is damaged"):
        read_episode(tmp_path)


def test_objects_are_never_unpickled(tmp_path):
    write_episode(tmp_path, fake_episode())
    arrays, meta = tmp_path / episodes.ARRAYS, tmp_path / episodes.META
    np.savez(arrays, env_step=np.array([print], object))
    data = json.loads(meta.read_text()) | {"crc32": episodes._checksum(arrays)}
    meta.write_text(json.dumps(data))
    with pytest.raises(EpisodeError, match="allow_pickle"):
        read_episode(tmp_path)


def test_a_failed_write_keeps_the_earlier_episode(tmp_path, monkeypatch):
    first = fake_episode(seed=1)
    write_episode(tmp_path, first)

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DiskFullError, match="while writing an episode"):
        write_episode(tmp_path, fake_episode(seed=2))
    equal(read_episode(tmp_path), first)


def test_a_write_cut_off_between_the_files_leaves_no_episode(tmp_path, monkeypatch):
    write_episode(tmp_path, fake_episode(seed=1))

    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(episodes.files, "write_json", cut)
    with pytest.raises(KeyboardInterrupt):
        write_episode(tmp_path, fake_episode(seed=2))
    with pytest.raises(EpisodeError, match="no recorded episode here"):
        read_episode(tmp_path)


def test_frames_are_shared_not_repeated(tmp_path):
    base = episodes.episode_folder(tmp_path, 0)
    other = episodes.episode_folder(tmp_path / "variants" / "banana", 0)
    first = fake_episode(3, size=(40, 50), calibrated=True)
    write_episode(base, first)
    assert first.actions is not None
    second = dataclasses.replace(first, actions=first.actions + 1, info={"prompt": "banana"})
    write_episode(other, second, frames_of=base)
    equal(read_episode(other), second)
    sizes = [(folder / episodes.ARRAYS).stat().st_size for folder in (base, other)]
    assert sizes[1] < sizes[0] / 10
    moved = tmp_path.with_name(tmp_path.name + "_moved")
    tmp_path.rename(moved)  # a run may be moved as a whole
    other = episodes.episode_folder(moved / "variants" / "banana", 0)
    equal(read_episode(other), second)
    write_episode(episodes.episode_folder(moved, 0), fake_episode(3, size=(40, 50), seed=2))
    with pytest.raises(EpisodeError, match=r"episode_00000/observations.npz: does not belong"):
        read_episode(other)


def test_frames_that_were_read_already_are_taken(tmp_path):
    base, other, own = (tmp_path / name for name in "abc")
    first = fake_episode(3, calibrated=True)
    write_episode(base, first)
    write_episode(other, first, frames_of=base)
    write_episode(own, fake_episode(3, seed=2))
    known = read_episode(base)
    found = read_episode(other, frames_of=(base, known))
    equal(found, first)
    assert all(found.images[c] is known.images[c] for c in known.images)
    assert all(found.masks[c] is known.masks[c] for c in known.masks)
    equal(read_episode(own, frames_of=(base, known)), fake_episode(3, seed=2))
    write_episode(base, fake_episode(3, seed=3))
    with pytest.raises(EpisodeError, match=r"a/observations.npz: does not belong"):
        read_episode(other, frames_of=(base, known))


def test_frames_that_do_not_fit_are_not_shared(tmp_path):
    write_episode(tmp_path / "a", fake_episode(3))
    write_episode(tmp_path / "b", fake_episode(3), frames_of=tmp_path / "a")
    with pytest.raises(EpisodeError, match="calls are 3, wanted are 2"):
        write_episode(tmp_path / "c", fake_episode(2), frames_of=tmp_path / "a")
    with pytest.raises(EpisodeError, match=r"calibrated are \[\], wanted are \['front', 'wrist'\]"):
        write_episode(tmp_path / "c", fake_episode(3, calibrated=True), frames_of=tmp_path / "a")
    with pytest.raises(EpisodeError, match="from another episode"):
        write_episode(tmp_path / "c", fake_episode(3), frames_of=tmp_path / "b")
    assert not (tmp_path / "c").exists()


def test_episodes_without_calibration_of_earlier_versions(tmp_path):
    episode = fake_episode(3)
    write_episode(tmp_path / "old", episode)
    meta = json.loads((tmp_path / "old" / episodes.META).read_text())
    del meta["calibrated"]
    (tmp_path / "old" / episodes.META).write_text(json.dumps(meta))
    equal(read_episode(tmp_path / "old"), episode)
    write_episode(tmp_path / "new", episode, frames_of=tmp_path / "old")
    equal(read_episode(tmp_path / "new"), episode)


def test_masks_are_small_on_disk(tmp_path):
    """72 masks of 64 x 64 take 36,864 bytes as bits; noise does not compress further."""
    rng = np.random.default_rng(0)
    masks = rng.random((8, 9, 64, 64)) < 0.5
    names = tuple(f"o{i}" for i in range(9))
    episode = Episode(
        info={},
        env_step=np.arange(8),
        images={"front": np.zeros((8, 64, 64, 3), np.uint8)},
        objects=names,
        roles={},
        masks={"front": masks},
        state=np.zeros((8, 1), np.float32),
    )
    write_episode(tmp_path, episode)
    assert (tmp_path / episodes.ARRAYS).stat().st_size < 40_000


if __name__ == "__main__":
    testing.main()
