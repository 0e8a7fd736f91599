"""Tests of attn_jax.analysis.metrics."""

import numpy as np
import pytest

from attn_jax.analysis import hypotheses
from attn_jax.analysis.hypotheses import HYPOTHESES
from attn_jax.analysis.metrics import METRICS, require
from attn_jax.analysis.options import Options
from attn_jax.core.calibration import Calibration
from attn_jax.core.errors import ConfigError
from tests import testing
from tests.analysis import runs
from tests.analysis.causal_test import SHAPE, occluded
from tests.analysis.runs import study_of

BOTH = Options(streams=("prefix:text", "suffix:action"))
ROUTES = {"rollout", "relevance"}  # need other records; checked in routes_test.py
SINGLE = {"h3": Options(), "budget": Options(), "words": Options(streams=("prefix:text",))}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """An episode with variants of every kind."""
    run = tmp_path_factory.mktemp("run")
    seen = Calibration(np.ones((3, 32, 32)), np.tile(np.eye(4), (3, 1, 1)), np.eye(3))
    runs.write_run(run, calibration={"front": seen, "wrist": seen})
    runs.write_variants(run)
    for which in ("high", "control"):
        occluded(run, which, which, np.zeros(SHAPE))
    asked = {"question": "which?", "answer": "red", "expected": "red", "object": "red_cube"}
    runs.write_run(run / "variants" / "asked", info={"vqa": asked})
    turned = {"degrees": 180, "camera": "wrist"}
    runs.write_run(run / "variants" / "turned", info={"rotation": turned})
    return study_of(run)


@pytest.mark.parametrize("name", sorted(HYPOTHESES.keys() - ROUTES))
def test_every_hypothesis_gives_what_is_listed(study, name):
    table = hypotheses.run(study, name, SINGLE.get(name, BOTH))
    found = set(table.metric)
    require(name, sorted(found), where=name)
    assert {metric for metric in METRICS[name] if "*" not in metric} <= found


def test_what_no_hypothesis_gives():
    assert set(METRICS) == set(HYPOTHESES)
    with pytest.raises(ConfigError, match=r"f: h1_1 gives no metric 'lfit'\. Use any of overlap"):
        require("h1_1", ("lift", "lfit"), where="f")
    with pytest.raises(ConfigError, match="unknown hypothesis 'h9'"):
        require("h9", (), where="f")


if __name__ == "__main__":
    testing.main()
