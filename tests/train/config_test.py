"""From `config.train` to values."""

import pytest

from attn_jax.core.errors import ConfigError
from attn_jax.train import config as config_lib
from attn_jax.train.optim import OptimConfig
from attn_jax.train.settings import LoopConfig
from attn_jax.train.stopping import Divergence, Plateau, Seconds, Steps, StopFile, Target
from configs import pi05
from tests import testing

BEST = ("val/mse", "min")


def test_defaults_are_the_defaults_of_the_values():
    train = config_lib.default_train_config()
    assert config_lib.optim_config(train) == OptimConfig()
    loop = config_lib.loop_config(train, BEST)
    assert loop == LoopConfig(best_metric="val/mse", total_steps=1000)
    until = config_lib.until(train, BEST, "stop")
    assert until.conditions == (Steps(1000), StopFile("stop"))


def test_every_limit():
    train = config_lib.default_train_config()
    train.steps = 0
    train.seconds = 2.5
    train.seconds_clock = "wall"
    train.stop.target_enabled = train.stop.divergence_enabled = train.stop.plateau_enabled = True
    train.stop.target = 0.5
    train.stop.plateau.patience = 3
    until = config_lib.until(train, BEST, "stop")
    assert until.conditions == (
        Seconds(2.5, "wall"),
        Target("val/mse", 0.5, "min"),
        Divergence("val/mse"),
        Plateau("val/mse", patience=3),
        StopFile("stop"),
    )
    train.stop.metric = "val/hybrid"
    assert config_lib.until(train, BEST, "stop").conditions[3].metric == "val/hybrid"


def test_a_stop_file_alone_does_not_end_a_run():
    train = config_lib.default_train_config()
    train.steps = 0
    with pytest.raises(ConfigError, match="nothing ends"):
        config_lib.until(train, BEST, "stop")


@pytest.mark.parametrize("field", ["steps", "samples", "seconds", "divergence", "plateau"])
def test_a_limit_that_ends_a_run_before_it_begins_is_refused(field):
    train = config_lib.default_train_config()
    if field in train.stop:
        train.stop[f"{field}_enabled"] = True
        train.stop[field].patience = 0
    else:
        train[field] = -5
    with pytest.raises(ConfigError, match=rf"train\.(stop\.)?{field}"):
        config_lib.until(train, BEST, "stop")


def test_a_time_limit_that_never_comes_is_refused():
    train = config_lib.default_train_config()
    train.steps, train.seconds = 0, float("inf")
    with pytest.raises(ConfigError, match=r"train\.seconds is inf"):
        config_lib.until(train, BEST, "stop")


def test_the_cosine_ends_with_the_run_unless_said_otherwise():
    train = config_lib.default_train_config()
    config_lib.resolve(train)
    assert train.optim.decay_steps == 0
    train.optim.schedule = "cosine"
    config_lib.resolve(train)
    assert train.optim.decay_steps == 1000
    train.steps = 2000
    config_lib.resolve(train)
    assert config_lib.optim_config(train).decay_steps == 1000
    train.steps = 100  # stops early, on the schedule of the longer run
    config_lib.resolve(train)
    assert config_lib.optim_config(train).decay_steps == 1000
    train.optim.decay_steps = train.steps = 0
    with pytest.raises(ConfigError, match="decay_steps"):
        config_lib.resolve(train)
    train.optim.warmup_steps = train.steps = 50
    with pytest.raises(ConfigError, match=r"train\.steps is 50.*for 50 updates.*warmup_steps"):
        config_lib.resolve(train)


@pytest.mark.parametrize(
    ("steps", "expected"), [(15, (0, 15)), (600, (20, 600)), (30_000, (1000, 30_000)), (0, None)]
)
def test_lerobots_schedule_shrinks_to_a_shorter_run(steps, expected):
    train = config_lib.default_train_config()
    train.optim.update(schedule="lerobot", warmup_steps=1000, decay_steps=30_000)
    train.steps = steps
    for _ in range(2):  # what is resolved already stays
        config_lib.resolve(train)
        found = (train.optim.warmup_steps, train.optim.decay_steps)
        assert found == (expected or (1000, 30_000))


def test_zero_switches_clipping_off():
    train = config_lib.default_train_config()
    train.optim.clip_norm = 0.0
    assert config_lib.optim_config(train).clip_norm is None


@pytest.mark.parametrize(("text", "value"), [("auto", None), ("on", True), ("off", False)])
def test_progress(text, value):
    train = config_lib.default_train_config()
    train.progress = text
    assert config_lib.loop_config(train, BEST).progress is value
    train.progress = "maybe"
    with pytest.raises(ConfigError, match="progress"):
        config_lib.loop_config(train, BEST)


def test_sharding_rules():
    train = config_lib.default_train_config()
    assert config_lib.sharding_rules(train) == ()
    train.sharding = (["kernel$", [None, "fsdp"]],)
    assert config_lib.sharding_rules(train) == (("kernel$", (None, "fsdp")),)
    for rule, message in (
        (("kernel$",), "not a rule"),
        (("(", ("data",)), "not a rule"),
        ((3, ("data",)), "not a rule"),
        (("kernel$", None), "not a rule"),
        (("kernel$", ("model",)), r"train\.sharding\[1\]: there is no axis 'model'"),
    ):
        train.sharding = (("bias$", ("data",)), rule)
        with pytest.raises(ConfigError, match=message):
            config_lib.sharding_rules(train)


def test_the_bar_gets_both_limits():
    train = config_lib.default_train_config()
    assert config_lib.loop_config(train, BEST).time_limit is None
    train.update(steps=7, seconds=5.0, seconds_clock="wall")
    loop = config_lib.loop_config(train, BEST)
    assert (loop.total_steps, loop.time_limit) == (7, Seconds(5.0, "wall"))


def test_fields_that_may_change_exist():
    config = {
        "train": config_lib.default_train_config().to_dict(),
        "distributed": config_lib.default_distributed_config().to_dict(),
        "export": pi05.get_config("tiny").export.to_dict(),  # of the families that export
    }
    for field in config_lib.MAY_CHANGE:
        at = config
        for name in field.split("."):
            at = at[name]


if __name__ == "__main__":
    testing.main()
