"""From a checkpoint to a report, in one command.

    python -m launch.study --checkpoint=CHECKPOINT --env=tabletop --workdir=OUT [--trials=40]
        [--noise_seeds=2] [--occlude_fills=mean,key_removal]

Runs the policy in an environment, then again over the frames it met with other words, other noise
and hidden patches, analyses every hypothesis, tests them over the episodes and writes the report.
--prompts, --noise_seeds (2 unless given), --occlude_fills (`mean` unless given), --capture and
--relevance are those of `launch.evaluate --episodes`; patches are chosen by the last layer.

Every step is an ordinary command, printed before it runs. What was interrupted goes on when the
same command is given again. Prompts, noise seeds, fills and hypotheses may be other ones then:
rollouts stay, other variants are added and earlier ones kept, and what was analysed otherwise is
analysed again. Another capture, or --relevance, needs OUT/run/ to be removed.

    OUT/rollouts/      episodes, videos and eval_info.json of launch.evaluate --env
    OUT/run/           the same frames with attention, and the variants of them
    OUT/analysis/      of launch.analyze
    OUT/aggregate/     of launch.aggregate: table.csv, rows.csv, summary.json, ...
    OUT/report.html    and report.json
"""

from __future__ import annotations

import pathlib

from absl import flags
from ml_collections import config_flags

from attn_jax.core.errors import ConfigError
from attn_jax.data.prompts import read_prompts
from attn_jax.policies.observations import describe
from attn_jax.probe.select import Selection
from configs import rollout
from launch import app
from launch.analysed import check_config
from launch.episode_variants import Occlusion, make_variants
from launch.rollout_evaluation import env_factory
from launch.steps import Step, prepare, run_steps

CHECKPOINT = app.define_checkpoint()
ENV = app.define_env()
SEED = app.define_seed()
JOBS = app.define_jobs()
CAPTURE = app.define_capture()
TRIALS = flags.DEFINE_integer("trials", 40, "Episodes of every task.", lower_bound=1)
N_ENVS = flags.DEFINE_integer("n_envs", 4, "Environments side by side.", lower_bound=1)
MAX_STEPS = flags.DEFINE_integer(
    "max_steps", None, "Steps of an episode; default the environment's.", lower_bound=1
)
PROMPTS = app.define_prompts()
NOISE_SEEDS = app.define_noise_seeds()
OCCLUDE_FILLS = app.define_occlude_fills()
RELEVANCE = app.define_relevance()
FRESH = app.define_fresh()
HYPOTHESES = config_flags.DEFINE_config_file(
    "hypotheses", "configs/analysis/all.py:lenient", "Configuration of launch.analyze."
)

#: Of attention in a policy.
STREAMS = ("prefix", "suffix")
DEFAULT_PROMPTS = "configs/prompts/swap.yaml"
DEFAULT_NOISE_SEEDS = 2
DEFAULT_FILLS = ("mean",)
#: What the hypotheses need: maps per query group, words, one map per action, masses.
DEFAULT_CAPTURE = (
    "layers=all;queries=text,action,text/word/*;reduce=patch_map,suffix.group_mass,suffix.head_mean"
)


def main() -> dict[str, float]:
    """Runs every step; returns their seconds."""
    for name, value in (("checkpoint", CHECKPOINT.value), ("env", ENV.value)):
        if not value:
            raise ConfigError(f"--{name} is required")
    check_inputs()
    # What the rollouts depend on. The steps after them compare what they need themselves.
    settings = {
        "checkpoint": CHECKPOINT.value,
        "env": ENV.value,
        "seed": SEED.value,
        "trials": TRIALS.value,
        "max_steps": MAX_STEPS.value,
    }
    folder = prepare(app.WORKDIR.value or "", settings, kind="study", fresh=FRESH.value)
    timing = run_steps(folder, steps(folder))
    print(f"\nreport: {folder / 'report.html'}", flush=True)
    return timing


def check_inputs() -> None:
    """Finds what can be wrong with any step before the first one takes its time.

    Raises:
      InputError: a configuration, prompts, fills, a capture, an environment or a checkpoint that
        a later step would refuse.
    """
    check_config(app.jsonable(app.value_of(HYPOTHESES).to_dict()))
    # Layer and camera are found later and are right: here it is the fills that are checked.
    occlusion = Occlusion((0,), ("camera",), fills())
    make_variants(read_prompts(PROMPTS.value or DEFAULT_PROMPTS), noise_seeds(), occlusion)
    selection = Selection.parse(CAPTURE.value or DEFAULT_CAPTURE)
    unknown = [name for name in selection.streams if name not in ("all", *STREAMS)]
    if unknown:
        raise ConfigError(
            f"unknown stream {unknown[0]!r}", where="--capture", fix=f"Use all or {STREAMS}"
        )
    env_factory(rollout.get_config(ENV.value).env)
    layers = describe(CHECKPOINT.value).config.architecture.depth
    for stream in STREAMS if "all" in selection.streams else selection.streams:
        selection.layers_of(layers, stream)


def noise_seeds() -> int:
    """Of --noise_seeds."""
    return DEFAULT_NOISE_SEEDS if NOISE_SEEDS.value is None else NOISE_SEEDS.value


def fills() -> tuple[str, ...]:
    """Of --occlude_fills."""
    return DEFAULT_FILLS if OCCLUDE_FILLS.value is None else tuple(OCCLUDE_FILLS.value)


def steps(folder: pathlib.Path) -> list[Step]:
    """Every step in order. All of them know themselves what is done already."""
    rollouts, run = folder / "rollouts", folder / "run"
    analysis, aggregate = folder / "analysis", folder / "aggregate"
    capture = CAPTURE.value or DEFAULT_CAPTURE
    hypotheses = flags.FLAGS[HYPOTHESES.name]
    overrides = config_flags.get_override_values(hypotheses)
    limit = () if MAX_STEPS.value is None else (f"--config.max_steps={MAX_STEPS.value}",)
    return [
        Step(
            "rollouts",
            (
                "evaluate",
                f"--checkpoint={CHECKPOINT.value}",
                f"--env={ENV.value}",
                f"--config.seed={SEED.value}",
                f"--config.episodes={TRIALS.value}",
                f"--config.n_envs={N_ENVS.value}",
                *limit,
                f"--workdir={rollouts}",
            ),
        ),
        Step(
            "variants",
            (
                "evaluate",
                f"--checkpoint={CHECKPOINT.value}",
                f"--episodes={rollouts}",
                f"--prompts={PROMPTS.value or DEFAULT_PROMPTS}",
                f"--noise_seeds={noise_seeds()}",
                "--occlude=last",
                f"--occlude_fills={','.join(fills())}",
                f"--seed={SEED.value}",
                f"--capture={capture}",
                *(("--relevance",) if RELEVANCE.value else ()),
                f"--workdir={run}",
            ),
        ),
        Step(
            "analyse",
            (
                "analyze",
                f"--run={run}",
                f"--config={config_flags.get_config_filename(hypotheses)}",
                *(f"--config.{name}={value}" for name, value in overrides.items()),
                f"--jobs={JOBS.value}",
                f"--workdir={analysis}",
            ),
        ),
        Step("aggregate", ("aggregate", f"--analysis={analysis}", f"--workdir={aggregate}")),
        Step(
            "report",
            (
                "report",
                f"--run={run}",
                f"--aggregate={aggregate}",
                f"--rollout_run={rollouts}",
                f"--output={folder / 'report.html'}",
            ),
        ),
    ]


if __name__ == "__main__":
    app.run(main, needs_workdir=True)
