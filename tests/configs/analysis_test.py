"""Tests of the configurations of launch.analyze."""

import importlib
import pkgutil

import numpy as np
import pytest

import configs.analysis
from attn_jax.analysis import tables
from attn_jax.analysis.aggregate import aggregate
from attn_jax.analysis.hypotheses import HYPOTHESES
from configs.analysis import parts
from launch import app
from launch.analysed import check_config, families_of
from launch.episode_analysis import options_of
from tests import testing

NAMES = [m.name for m in pkgutil.iter_modules(configs.analysis.__path__) if m.name != "parts"]


@pytest.mark.parametrize("name", NAMES)
def test_configurations_hold_what_launchers_read(name):
    module = importlib.import_module(f"configs.analysis.{name}")
    config = app.jsonable(module.get_config("tiny").to_dict())
    options = options_of(config)
    families = families_of(config)
    check_config(config)
    assert options and families and config["resamples"] == 99
    assert {family.hypothesis for family in families} == set(options)
    assert f"configs/analysis/{name}.py" in (module.__doc__ or "")
    assert module.get_config().resamples == 10_000


def test_every_hypothesis_has_a_configuration_and_families():
    assert set(parts.HYPOTHESES) == set(parts.FAMILIES) == set(HYPOTHESES)
    single = [name for name in NAMES if name != "all"]
    made = [importlib.import_module(f"configs.analysis.{n}").get_config() for n in single]
    assert {key for config in made for key in config.hypotheses} == set(HYPOTHESES)


def test_a_perfect_score_has_a_p_value():
    """Of 8 episodes every answer is right: the t test divides by a spread of 0."""
    config = app.jsonable(parts.make("h2_2").to_dict())
    family = next(f for f in families_of(config) if f.name == "answers_are_right")
    rows = [
        tables.tidy(
            np.ones(1),
            {"env_step": [0]},
            metric="correct",
            hypothesis="h2_2",
            variant="question",
            episode=f"episode_{number}",
            outcome="success",
        )
        for number in range(8)
    ]
    (row,) = aggregate(tables.concat(rows), (family,), resamples=999).to_dict("records")
    assert row["p_holm"] == pytest.approx(1 / 2**8) and row["reason"] == ""


def test_all_and_lenient():
    module = importlib.import_module("configs.analysis.all")
    strict, lenient = module.get_config(), module.get_config("lenient")
    assert strict.hypotheses.h1_1.missing == "error" and strict.hypotheses.h1.missing == "skip"
    assert {h.missing for h in lenient.hypotheses.values()} == {"skip"}


if __name__ == "__main__":
    testing.main()
