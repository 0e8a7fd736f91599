"""The whole way from sensor to report, on the smallest world: what `make demo` runs.

    python -m launch.demo --workdir=out/demo

Records the toroidal dot, trains a canvas world model for at most two minutes, evaluates it on a
session that it has never seen, records the attention of its predictions, checks that record and
writes a report. Then the trained policy of `robots/tabletop/policy` picks up things on the
tabletop, and a second report says what it looks at. Every step is one ordinary command, printed
before it runs, so that it can be repeated with other values. An interrupted demo continues: what is
finished is not done again.
"""

from __future__ import annotations

import pathlib

from absl import flags

from attn_jax.data.sessions import is_session, read_meta
from launch import app
from launch.steps import Step, prepare, run_steps

SEED = app.define_seed()
SECONDS = flags.DEFINE_float("seconds", 120.0, "Longest training time, seconds.", lower_bound=1.0)
TINY = flags.DEFINE_bool("tiny", False, "A few seconds of everything, to see that it works.")
FRESH = app.define_fresh()

#: Trained on demonstrations with other seeds; its card is README.md there.
POLICY = "robots/tabletop/policy"
# Held-out sessions start from other places than any training session with a usual seed.
_TEST_SEED = 10_000


def main() -> dict[str, float]:
    """Runs every step; returns their seconds."""
    settings = {"seed": SEED.value, "tiny": TINY.value, "seconds": SECONDS.value}
    folder = prepare(app.WORKDIR.value or "out/demo", settings, kind="demo", fresh=FRESH.value)
    timing = run_steps(folder, steps(folder))
    print(f"\nreport: {folder / 'report.html'}", flush=True)
    print(f"report: {folder / 'tabletop' / 'report.html'}", flush=True)
    return timing


def steps(folder: pathlib.Path) -> list[Step]:
    """Every step in order."""
    seed, tiny = SEED.value, TINY.value
    train, test = folder / "session_train", folder / "session_test"
    run, evaluation, record = folder / "train", folder / "evaluation", folder / "attention"
    size = "size=64,tiny" if tiny else "size=64"
    return [
        record_step("record", train, seed, 60 if tiny else 3000),
        record_step("record held-out", test, seed + _TEST_SEED, 40 if tiny else 500),
        Step(
            "train",
            (
                "train",
                f"--config=configs/canvas.py:{size}",
                f"--workdir={run}",
                f"--config.seed={seed}",
                f"--config.data.sessions={train}",
                f"--config.train.seconds={SECONDS.value}",
                "--config.train.seconds_clock=wall",
            ),
            done=(run / "result.json").is_file(),
        ),
        Step(
            "evaluate",
            (
                "evaluate",
                f"--checkpoint={run}",
                f"--data={test}",
                f"--workdir={evaluation}",
                "--capture=layers=all;reduce=full,group_mass,entropy",
                f"--record={record}",
            ),
            done=(evaluation / "evaluation.json").is_file(),
            leftovers=record,
        ),
        Step("verify", ("attention", "verify", str(record))),
        Step(
            "report",
            (
                "report",
                f"--evaluation={evaluation}",
                f"--train={run}",
                f"--attention={record}",
                f"--output={folder / 'report.html'}",
            ),
        ),
        Step(
            "tabletop",
            study(folder / "tabletop", tiny=tiny),
            done=(folder / "tabletop" / "report.json").is_file(),
        ),
    ]


def study(folder: pathlib.Path, *, tiny: bool) -> tuple[str, ...]:
    """The trained policy on the tabletop, analysed."""
    hypotheses = "configs/analysis/all.py:lenient" + (",tiny" if tiny else "")
    return (
        "study",
        f"--checkpoint={POLICY}",
        "--env=tabletop",
        f"--workdir={folder}",
        f"--seed={SEED.value + _TEST_SEED}",
        f"--trials={2 if tiny else 12}",
        f"--hypotheses={hypotheses}",
        *(("--max_steps=10",) if tiny else ()),
    )


def record_step(name: str, session: pathlib.Path, seed: int, observations: int) -> Step:
    """Records episodes of ten observations, each from another place."""
    command = (
        "record",
        "--config=configs/toroidal_dot.py:size=64",
        f"--workdir={session}",
        f"--config.seed={seed}",
        f"--config.steps={observations}",
        f"--config.episodes={observations // 10}",
    )
    done = is_session(session) and bool(read_meta(session).get("end_time"))
    return Step(name, command, done, leftovers=session)


if __name__ == "__main__":
    app.run(main)
