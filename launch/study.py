"""From a checkpoint to a report, in one command.

    python -m launch.study --checkpoint=CHECKPOINT --env=tabletop --workdir=OUT [--trials=40]

Runs the policy in an environment, then again over the frames it met with other words, other noise
and hidden patches, analyses every hypothesis, tests them over the episodes and writes the report.
Every step is an ordinary command, printed before it runs. What was interrupted goes on when the
same command is given again.

    OUT/rollouts/      episodes, videos and eval_info.json of launch.evaluate --env
    OUT/run/           the same frames with attention, and the variants of them
    OUT/analysis/      of launch.analyze
    OUT/aggregate/     of launch.aggregate: table.csv, rows.csv, summary.json, ...
    OUT/report.html    and report.json
"""

from __future__ import annotations

import pathlib

from absl import flags

from attn_jax.core.errors import ConfigError
from launch import app
from launch.steps import Step, prepare, run_steps

CHECKPOINT = app.define_checkpoint()
ENV = app.define_env()
SEED = app.define_seed()
JOBS = app.define_jobs()
CAPTURE = app.define_capture()
TRIALS = flags.DEFINE_integer("trials", 40, "Episodes of every task.", lower_bound=1)
N_ENVS = flags.DEFINE_integer("n_envs", 4, "Environments side by side.", lower_bound=1)
MAX_STEPS = flags.DEFINE_integer(
    "max_steps", None, "Steps of an episode; default the environment's."
)
PROMPTS = app.define_prompts()
FRESH = app.define_fresh()
HYPOTHESES = flags.DEFINE_string(
    "hypotheses", "configs/analysis/all.py:lenient", "Configuration of launch.analyze."
)

DEFAULT_PROMPTS = "configs/prompts/swap.yaml"
#: What the hypotheses need: maps per query group, words, one map per action, masses.
DEFAULT_CAPTURE = (
    "layers=all;queries=text,action,text/word/*;reduce=patch_map,suffix.group_mass,suffix.head_mean"
)


def main() -> dict[str, float]:
    """Runs every step; returns their seconds."""
    for name, value in (("checkpoint", CHECKPOINT.value), ("env", ENV.value)):
        if not value:
            raise ConfigError(f"--{name} is required")
    settings = {
        "checkpoint": CHECKPOINT.value,
        "env": ENV.value,
        "seed": SEED.value,
        "trials": TRIALS.value,
        "max_steps": MAX_STEPS.value,
        "capture": CAPTURE.value,
        "prompts": PROMPTS.value,
        "hypotheses": HYPOTHESES.value,
    }
    folder = prepare(app.WORKDIR.value or "", settings, kind="study", fresh=FRESH.value)
    timing = run_steps(folder, steps(folder))
    print(f"\nreport: {folder / 'report.html'}", flush=True)
    return timing


def steps(folder: pathlib.Path) -> list[Step]:
    """Every step in order. All of them know themselves what is done already."""
    rollouts, run = folder / "rollouts", folder / "run"
    analysis, aggregate = folder / "analysis", folder / "aggregate"
    capture = CAPTURE.value or DEFAULT_CAPTURE
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
                "--noise_seeds=2",
                "--occlude=last",
                "--occlude_fills=mean",
                f"--seed={SEED.value}",
                f"--capture={capture}",
                f"--workdir={run}",
            ),
        ),
        Step(
            "analyse",
            (
                "analyze",
                f"--run={run}",
                f"--config={HYPOTHESES.value}",
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
