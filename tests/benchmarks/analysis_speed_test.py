"""The benchmark of the analysis runs, and its two sides agree where they measure the same."""

import numpy as np
import pytest

from benchmarks import analysis_speed
from tests import testing

SMALL = analysis_speed.Size(3, 2, 2, 2, 2, 5)


def test_both_sides_see_the_same_differences():
    data = analysis_speed.make(SMALL)
    ours, loop = analysis_speed.ours(data), analysis_speed.loop(data)
    found = np.array([row["l2_distance"] for row in loop["h2_1"]]).reshape(3, 2, 2)
    expected = np.stack([change["l2"] for change in ours["h2_1"]], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    for name in ("h1_1", "h1_1_picture"):
        overlaps = np.array([row["overlap_ratio"] for row in loop[name]]).reshape(3, 2, 2)
        np.testing.assert_allclose(overlaps, ours[name]["overlap"], atol=0.1)  # cubic enlarging
    # Bars take a part of the mass, so that the shares of the picture are larger.
    assert (ours["h1_1_picture"]["overlap"] > ours["h1_1"]["overlap"]).all()
    moved = np.array(loop["h2_1_actions"]).reshape(3, 2)
    np.testing.assert_allclose(moved, np.stack(ours["h2_1_actions"], axis=-1), rtol=1e-4)
    curves = np.array(loop["h3"]).reshape(3, 2, 5, 2)
    np.testing.assert_allclose(curves, ours["h3"][0], atol=0.05)
    assert len(loop["h4"]) == len(ours["h4"]["ranking"].order) == 4


@pytest.mark.slow
def test_it_runs():
    done = testing.run_python("-m", "benchmarks.analysis_speed", "--small", "--json")
    assert done.returncode == 0, done.stderr
    assert '"ratio"' in done.stdout.splitlines()[-1]


if __name__ == "__main__":
    testing.main()
