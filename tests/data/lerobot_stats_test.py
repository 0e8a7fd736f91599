import numpy as np
import pytest

from attn_jax.data.lerobot_stats import QUANTILES, FeatureStats
from tests import testing


def test_vectors_against_numpy():
    random = np.random.default_rng(0)
    parts = [random.normal(size=(length, 3)).astype(np.float32) for length in (5, 40, 1)]
    stats = FeatureStats("float32")
    first = stats.add(parts[0])
    for part in parts[1:]:
        stats.add(part)
    for got, values in ((first, parts[0]), (stats.total(), np.concatenate(parts))):
        values = values.astype(np.float64)
        assert np.allclose(got["mean"], values.mean(axis=0))
        assert np.allclose(got["std"], values.std(axis=0))
        assert np.allclose(got["min"], values.min(axis=0))
        assert np.allclose(got["max"], values.max(axis=0))
        assert got["count"] == [len(values)]
        for name, share in QUANTILES.items():
            assert np.allclose(got[name], np.quantile(values, share, axis=0))


def test_pictures_against_their_pixels():
    random = np.random.default_rng(1)
    parts = [random.integers(20, 240, (n, 6, 5, 3), dtype=np.uint8) for n in (2, 3)]
    stats = FeatureStats("image")
    for part in parts:
        stats.add(part)
    got = {name: np.array(value) for name, value in stats.total().items()}
    pixels = np.concatenate(parts).reshape(-1, 3) / 255
    assert got["mean"].shape == (3, 1, 1) and got["count"] == [5]
    assert np.allclose(got["mean"].ravel(), pixels.mean(axis=0))
    assert np.allclose(got["std"].ravel(), pixels.std(axis=0))
    assert np.allclose(got["min"].ravel(), pixels.min(axis=0))
    assert np.allclose(got["max"].ravel(), pixels.max(axis=0))
    for name, share in QUANTILES.items():
        expected = np.quantile(pixels, share, axis=0, method="inverted_cdf")
        assert got[name].ravel() == pytest.approx(expected)


def test_columns_of_numbers():
    assert FeatureStats("int64").add(np.arange(5))["mean"] == [2.0]


if __name__ == "__main__":
    testing.main()
