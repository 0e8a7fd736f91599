import json
import warnings

import numpy as np
import pytest

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data import augment
from attn_jax.data.canvas import build_canvas
from attn_jax.data.pipeline import CanvasSource, full_pass, load_frames, make_iterator
from attn_jax.data.sampling import SAMPLINGS
from tests import testing
from tests.data import fake_sessions

GEOMETRY = CanvasGeometry((16, 16))


@pytest.fixture
def source(tmp_path):
    session = fake_sessions.write_session(tmp_path / "s", 6, episodes=2)
    return CanvasSource(load_frames(session), GEOMETRY)


def expected_canvas(source, index, shift=(0, 0)):
    rows = source.rows[index]
    frames = [np.roll(source.store.frames[row], shift, axis=(0, 1)) for row in rows]
    actions = [source.store.action_space[action] for action in source.actions[index]]
    return build_canvas(frames, actions, source.geometry)


def test_canvases_equal_the_builder(source):
    assert len(source) == 8
    for index in range(8):
        sample = source[index]
        assert np.array_equal(sample["canvas"], expected_canvas(source, index))
        assert (sample["index"], sample["last_action"]) == (index, source.actions[index, -1])
    batch = source.gather(np.array([5, 0, 5]))
    assert np.array_equal(batch["canvas"][0], expected_canvas(source, 5))
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        "canvas": ((3, 16, 80, 3), "uint8"),
        "index": ((3,), "int32"),
        "last_action": ((3,), "int32"),
    }


def test_index_out_of_range(source):
    assert np.array_equal(source[-1]["canvas"], source[7]["canvas"])
    for index in (8, -9):
        with pytest.raises(IndexError):
            source[index]


def test_fits_grain(source):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # grain's own imports
        import grain
    batches = list(grain.MapDataset.source(source).batch(4))
    assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_keep_selects_canvases(source):
    kept = CanvasSource(source.store, GEOMETRY, keep=np.array([6, 1]))
    assert np.array_equal(kept[0]["canvas"], source[6]["canvas"])
    assert kept[0]["index"] == 0 and len(kept) == 2


def test_sources_that_cannot_be_built(tmp_path, source):
    with pytest.raises(SessionError, match=r"\(16, 16\).*\(32, 32\)"):
        CanvasSource(source.store, CanvasGeometry((32, 32)))
    short = load_frames(fake_sessions.write_session(tmp_path / "short", 2))
    with pytest.raises(SessionError, match="no canvas of 3 frames"):
        CanvasSource(short, GEOMETRY)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("augmentation", [None, "toroidal_shift"])
def test_batches_hold_the_canvases_they_name(source, sampling, augmentation):
    batches = make_iterator(source, 3, 5, sampling, augment=augmentation)
    for number in range(4):
        batch = next(batches)
        positions = number * 3 + np.arange(3)
        shifts = augment.draw_shifts(augmentation, 5, positions, (16, 16))
        for row, index in enumerate(batch["index"]):
            assert np.array_equal(
                batch["canvas"][row], expected_canvas(source, index, tuple(shifts[row]))
            )
    batches.close()


def train(batches, steps):
    """Draws, and feeds a made-up loss back after every step, as `fit` does."""
    drawn = []
    for _ in range(steps):
        batch = next(batches)
        drawn.append((batch["index"].tolist(), batch["canvas"].tobytes()))
        batches.feedback(batch["index"], np.sqrt(batch["index"] + len(drawn) % 3))
    return drawn


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("stop", [0, 3, 4, 7, 8])
def test_resume_is_exact(source, sampling, stop):
    options = {"refresh_every": 4, "augment": "toroidal_shift"}
    batches = make_iterator(source, 3, 5, sampling, **options)
    train(batches, stop)
    state = json.loads(json.dumps(batches.get_state()))
    rest = train(batches, 12)
    for prefetch in (0, 3):
        resumed = make_iterator(source, 3, 5, sampling, prefetch=prefetch, **options)
        train(resumed, 2)  # whatever was prefetched must not leak into the resumed run
        resumed.set_state(state)
        assert train(resumed, 12) == rest
        resumed.close()
    batches.close()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_prefetch_changes_nothing(source, sampling):
    runs = []
    for prefetch in (0, 1, 9):
        batches = make_iterator(source, 3, 5, sampling, refresh_every=4, prefetch=prefetch)
        runs.append((train(batches, 13), batches.get_state()))
        batches.close()
    assert runs[0] == runs[1] == runs[2]


def test_loss_weighting_prefers_large_losses(source):
    batches = make_iterator(
        source, 8, 0, "loss_weighted", refresh_every=1, temperature=0.1, prefetch=0
    )
    assert batches.wants_feedback
    assert not make_iterator(source, 8, 0).wants_feedback
    batches.feedback(np.arange(8), np.array([0, 0, 0, 9, 0, 0, 0, 0.0]))
    drawn = np.concatenate([next(batches)["index"] for _ in range(20)])
    assert (drawn == 3).mean() > 0.95


def test_state_of_other_data(tmp_path, source):
    other = load_frames(fake_sessions.write_session(tmp_path / "o", 5))
    state = make_iterator(CanvasSource(other, GEOMETRY), 2, 0, prefetch=0).get_state()
    with pytest.raises(ConfigError, match="3 canvases, the source has 8"):
        make_iterator(source, 2, 0, prefetch=0).set_state(state)


@pytest.mark.parametrize("options", [{"augment": "mirror"}, {"prefetch": -1}])
def test_bad_options(source, options):
    with pytest.raises(ConfigError):
        make_iterator(source, 2, 0, **options)


def test_an_error_in_the_worker_reaches_the_caller(source, monkeypatch):
    def fail(*_):
        raise MemoryError("no memory for canvases")

    monkeypatch.setattr(source, "gather", fail)
    batches = make_iterator(source, 2, 0)
    with pytest.raises(MemoryError, match="no memory for canvases"):
        next(batches)
    batches.close()


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20])
def test_full_pass_sees_every_canvas_once(source, batch_size):
    batches = list(full_pass(source, batch_size))
    assert all(len(batch["canvas"]) == batch_size for batch in batches)
    valid = np.concatenate([batch["valid"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    assert index[valid].tolist() == list(range(8))
    assert (index[~valid] == 7).all() and valid[:8].all()
    with pytest.raises(ConfigError):
        next(full_pass(source, 0))


if __name__ == "__main__":
    testing.main()
