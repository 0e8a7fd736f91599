"""Tests of attn_jax.analysis.presets: hand-computed, and against the definitions used here."""

import cv2
import numpy as np
import pytest
import scipy.stats

from attn_jax.analysis import focus, overlap, presets, reduce, shift, stats
from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from tests import testing
from tests.analysis import records

LAYOUT = TokenLayout(
    17,
    (
        TokenGroup("image/base", (0, 1, 2, 3), (2, 2)),
        TokenGroup("image/wrist", (4, 5, 6, 7), (2, 2)),
        TokenGroup("image/dummy", (8, 9, 10, 11), (2, 2), valid=False),
        TokenGroup("text", (12, 13)),
        TokenGroup("pad", (14,), valid=False),
        TokenGroup("action", (15, 16)),
    ),
)


def test_seed1_takes_one_action():
    record = records.record(LAYOUT, stream="suffix")
    maps = presets.seed1_maps(record, "image/wrist", action=1)
    expected = record.values.astype(np.float64)[..., 16, 4:8].mean(3).reshape(2, 1, 2, 2, 2)
    np.testing.assert_allclose(maps, expected, rtol=1e-12)
    ours = reduce.reduce_record(record, query="action", key="image/wrist")
    assert np.abs(maps - ours).max() > 1e-3


def test_seed2_takes_every_row_behind_the_second_camera():
    record = records.record(LAYOUT, stream="prefix")
    values = record.values.astype(np.float64).copy()
    values[..., [8, 9, 10, 11, 14], :] = 1 / 17  # what nobody may attend to was uniform
    rows = values[..., 8:, 4:8]
    expected = rows.mean(3).max(-2).reshape(2, 1, 2, 2, 2)
    maps = presets.seed2_maps(record, "image/wrist")
    np.testing.assert_allclose(maps, expected, rtol=1e-12)
    assert maps.min() >= 1 / 17 - 1e-12  # the floor
    other = presets.seed2_maps(record, "image/wrist", heads="max", queries="mean")
    np.testing.assert_allclose(other, rows.max(3).mean(-2).reshape(2, 1, 2, 2, 2), rtol=1e-12)
    # Here only real text counts.
    ours = reduce.reduce_record(record, query="text", key="image/wrist", queries="max")
    assert ours.min() < 1 / 17


def test_seed2_maps_need_full_maps_of_two_cameras():
    one = TokenLayout(5, (TokenGroup("image/a", (0, 1, 2, 3), (2, 2)), TokenGroup("text", (4,))))
    with pytest.raises(RecordError, match=r"1 cameras.*at least two cameras"):
        presets.seed2_maps(records.record(one), "image/a")


def test_seed2_object_metrics_by_hand():
    """Where nothing is interpolated (the mask has the size of the grid) the sums are plain."""
    a = np.array([[0.4, 0.1], [0.3, 0.2]])
    mask = np.array([[True, True], [False, False]])
    found = presets.seed2_object_metrics(a, mask)
    assert found["overlap_ratio"] == pytest.approx(0.5, abs=1e-7)
    assert found["mean_attn_inside"] == pytest.approx(0.25 / 0.4)
    assert found["mean_attn_outside"] == pytest.approx(0.25 / 0.4)
    assert found["attention_concentration"] == pytest.approx(1.0, abs=1e-6)
    assert found["iou"] == pytest.approx(1 / 4, abs=1e-7)  # .4, .3, .2 are above .12
    empty = presets.seed2_object_metrics(a, np.zeros((2, 2), bool))
    assert empty["attention_concentration"] == 0


def test_seed2_overlap_is_off_on_a_speckled_map():
    """Cubic enlarging moves mass; area weighting does not."""
    rng = np.random.default_rng(0)
    speckled = (rng.random((16, 16)) < 0.05) * rng.random((16, 16))
    chosen = rng.random((16, 16)) < 0.2
    mask = np.kron(chosen, np.ones((14, 14))).astype(bool)
    true = speckled[chosen].sum() / speckled.sum()
    old = presets.seed2_object_metrics(speckled, mask)["overlap_ratio"]
    coverage = overlap.patch_coverage(mask, (16, 16), (224, 224))[None, None]
    ours = overlap.object_metrics(speckled[None], coverage)["overlap"][0, 0]
    assert ours == pytest.approx(true, abs=1e-12)
    assert abs(old - true) / true > 0.05
    big = np.maximum(cv2.resize(speckled, (224, 224), interpolation=cv2.INTER_CUBIC), 0)
    assert old == pytest.approx(big[mask].sum() / big.sum(), abs=1e-6)


def test_seed2_iou_falls_for_one_sink():
    """The spec's example: one patch outside with 20 % of the mass."""
    a = np.full((16, 16), 1e-4)
    a[4:8, 4:8] = 1.0
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    assert presets.seed2_object_metrics(a, mask)["iou"] == pytest.approx(1.0, abs=1e-6)
    a[15, 15] = 0.25 * a.sum()
    assert presets.seed2_object_metrics(a, mask)["iou"] == pytest.approx(0.0, abs=1e-6)


def test_seed2_shift():
    base, other = np.array([[0.2, 0.3], [0.4, 0.1]]), np.array([[0.3, 0.1], [0.4, 0.2]])
    found = presets.seed2_shift(base, other)
    assert found["l2_distance"] == pytest.approx(np.sqrt(0.01 + 0.04 + 0.01))
    assert found["max_increase"] == pytest.approx(0.1)
    assert found["max_decrease"] == pytest.approx(-0.2)
    assert found["abs_mean_diff"] == pytest.approx(0.1)
    ours = shift.shift_metrics(base, other, box=(0, 0, 28, 28))
    assert found["correlation"] == pytest.approx(float(ours["pearson"]))
    # Its distance halves with the mass of the camera; ours does not.
    assert presets.seed2_shift(base / 2, other / 2)["l2_distance"] == pytest.approx(
        found["l2_distance"] / 2
    )
    halved = shift.shift_metrics(base / 2, other / 2, box=(0, 0, 28, 28))
    np.testing.assert_allclose(halved["relative_l2"], ours["relative_l2"])


def test_seed2_focus_is_the_variance_of_a_grey_picture():
    maps = np.zeros((3, 16, 16))
    maps[0, 3, 3], maps[1, :8], maps[2] = 1.0, 1 / 128, 1 / 256
    noise = np.random.default_rng(0).random((16, 16))
    for patch_map in (*maps, noise):
        # As the seed draws it, pixel by pixel; its cast to eight bits wraps.
        big = cv2.resize(patch_map, (224, 224), interpolation=cv2.INTER_CUBIC)
        wrapped = [[int(255 * v / (big.max() + 1e-8)) % 256 for v in row] for row in big]
        picture = cv2.applyColorMap(np.array(wrapped, np.uint8), cv2.COLORMAP_JET)
        grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        assert presets.seed2_focus(patch_map) == pytest.approx(np.var(grey))
    found = [presets.seed2_focus(m) for m in maps]
    # Half a picture counts as more focused than a single patch.
    assert found[1] > found[0] > found[2] == 0
    assert np.argsort(focus.normalised_entropy(maps.reshape(3, -1))).tolist() == [0, 1, 2]


def test_seed2_masks_take_a_percentile_and_draw_the_rest():
    patch_map = np.random.default_rng(0).random((16, 16))
    high, low = presets.seed2_masks(patch_map, rng=np.random.default_rng(1))
    order = np.argsort(patch_map, axis=None)
    assert set(np.flatnonzero(high)) == set(order[-26:])  # 10 % of 256
    assert low.sum() == 26 and not (high & low).any()
    drawn = [presets.seed2_masks(patch_map, rng=np.random.default_rng(n))[1] for n in range(40)]
    # Drawn evenly from what is not high, in no shape: every other patch comes up in turn.
    assert (np.mean(drawn, 0)[~high] < 0.5).all() and np.mean(drawn, 0)[~high].mean() > 0.1
    assert presets.seed2_masks(np.ones((4, 4)), rng=np.random.default_rng(0))[0].sum() == 0


def test_seed2_occlusion_as_the_seed_describes_it():
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(0, 255, (224, 224, 3)).astype(float) for name in ("a", "b")}
    maps = {name: rng.random((16, 16)) for name in pictures}
    weights = {name: rng.normal(size=(224, 224, 3)) for name in pictures}

    def infer(seen):
        total = sum(float((weights[name] * seen[name]).sum()) for name in weights)
        return np.array([[total, 2 * total]])

    found = presets.seed2_occlusion(infer, pictures, maps, seed=5)
    # Straight: percentile, random others, both cameras black at once.
    draw = np.random.default_rng(5)
    covered = {"high": {}, "low": {}}
    for name, patch_map in maps.items():
        high = patch_map > np.percentile(patch_map, 90)
        places = draw.choice(np.flatnonzero(~high), int(high.sum()), replace=False)
        sets = {"high": np.flatnonzero(high), "low": places}
        for which, patches in sets.items():
            picture = pictures[name].copy()
            for patch in patches:
                row, column = divmod(int(patch), 16)
                picture[14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = 0
            covered[which][name] = picture
    clean = infer(pictures)
    mse = {which: np.mean((clean - infer(seen)) ** 2) for which, seen in covered.items()}
    assert found["mse_high"] == pytest.approx(mse["high"])
    assert found["mse_low"] == pytest.approx(mse["low"])
    assert found["fidelity"] == pytest.approx(mse["high"] - mse["low"])


def test_seed2_student_t_by_its_formula():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, 1, 11), rng.normal(0, 3, 35)  # the sizes of its report
    n, m = len(x), len(y)
    pooled = ((n - 1) * x.var(ddof=1) + (m - 1) * y.var(ddof=1)) / (n + m - 2)
    t = (x.mean() - y.mean()) / np.sqrt(pooled * (1 / n + 1 / m))
    p = 2 * scipy.stats.t.sf(abs(t), n + m - 2)
    assert presets.seed2_student_t(x, y) == pytest.approx((t, p))
    assert abs(stats.welch(x, y).p - p) > 0.01  # unequal spread, unequal sizes


def test_seed2_entropy_stability_and_regions():
    a = np.array([[0.5, 0.5], [0.0, 0.0]])
    assert presets.seed2_entropy(a) == pytest.approx(np.log(2), abs=1e-6)
    moved = np.stack([a, a[::-1], a])
    assert presets.seed2_stability(moved) == pytest.approx(1.0)
    assert presets.seed2_stability(moved / 10) == pytest.approx(10.0)
    np.testing.assert_allclose(shift.stability(moved), shift.stability(moved / 10))
    even = np.full((16, 16), 1 / 256)
    gripper = presets.seed2_roi_mass(even, (80, 80, 144, 224))
    assert gripper == pytest.approx(4 * 10 / 256)  # columns 6 to 9, rows 6 to 15


def test_seed2_statistics():
    x, y = np.array([1.0, 2, 3, 4]), np.array([2.0, 3, 4, 5])
    assert presets.seed2_cohens_d(x, y) == pytest.approx(-1 / np.sqrt(1.25))
    ratio = presets.seed2_cohens_d(x, y) / stats.cohens_d(x, y)
    assert ratio == pytest.approx(np.sqrt(4 / 3))
    assert np.isnan(presets.seed2_cohens_d(np.ones(3), np.ones(3)))
    low, high = presets.seed2_interval(x, seed=0)
    assert low < 2.5 < high
    assert presets.seed2_interval(x, seed=0) == (low, high)
    clean, high_, low_ = np.zeros((2, 2)), np.full((2, 2), 0.2), np.full((2, 2), 0.1)
    assert presets.seed2_fidelity(clean, high_, low_) == pytest.approx(0.03)


if __name__ == "__main__":
    testing.main()
