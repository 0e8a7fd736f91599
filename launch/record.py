"""Records a session with a robot, or demonstrations of an expert.

    python -m launch.record --config=configs/toroidal_dot.py:size=64 --workdir=SESSION
    --config.steps=1000
    python -m launch.record --config=configs/tabletop.py:size=64,task=pick --workdir=DATASET
    --config.episodes=200

--workdir is the session folder of the toroidal dot, and the dataset of the tabletop
(LeRobotDataset v3, or DROID-style recordings with `dataset.format=droid`); a
folder that already holds one is refused. A killed recording of a session loses at most one event, a
killed recording of demonstrations what came after the last `commit_every` episodes; SIGTERM and
Ctrl-C lose nothing (exit code 128 + signal number). The same command goes on with demonstrations.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

import ml_collections
from absl import logging

from attn_jax.core.errors import ConfigError
from attn_jax.data.quota import Reclaim
from attn_jax.data.session_writer import SessionWriter, refuse_existing
from launch import app
from robots import selectors
from robots.record import episode_lengths, record
from robots.toroidal_dot import DotConfig, ToroidalDot

CONFIG = app.define_config()


def build_robot(config: ml_collections.ConfigDict) -> ToroidalDot:
    """Robot of `config.robot`, seeded with `config.seed`; raises ConfigError for another name."""
    robot = config.robot
    if robot.name != "toroidal_dot":
        raise ConfigError(
            f"unknown robot {robot.name!r}", fix="Use toroidal_dot, tabletop or libero"
        )
    return ToroidalDot(
        DotConfig(size=robot.size, move=robot.move, radius=robot.radius),
        seed=config.seed,
        initial_x=robot.initial_x,
        initial_y=robot.initial_y,
        delay_s=robot.delay_s,
    )


def main(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Records into `workdir` and returns the summary that --json prints."""
    refuse_existing(workdir)  # a session; the recorders of demonstrations go on with their own
    if config.robot.name == "tabletop":
        return record_demonstrations(config, workdir)
    if config.robot.name == "libero":
        return record_libero(config, workdir)
    return record_session(config, workdir)


def record_demonstrations(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> dict[str, Any]:
    """Lets the tabletop's expert act and writes its demonstrations into `workdir`."""
    # Here, because mujoco is slow to import and other robots do without.
    from robots.tabletop import record as tabletop
    from robots.tabletop.demonstrations import TabletopConfig
    from robots.tabletop.tasks import TaskConfig

    robot, options = config.robot, config.dataset
    task = TaskConfig(robot.task, tuple(robot.colours), tuple(robot.shapes), robot.distractors)
    settings = TabletopConfig(
        task=task,
        size=robot.size,
        cameras=tuple(robot.cameras),
        shadows=robot.shadows,
        max_steps=robot.max_steps,
        noise=config.expert.noise,
        every_target=config.expert.every_target,
        views=tuple(options.views),
    )
    recording = tabletop.Recording(
        settings,
        seed=config.seed,
        episodes=config.episodes,
        storage=options.storage,
        masks=options.masks,
        look_at=options.look_at,
        keep_failures=options.keep_failures,
        starts=config.starts.scenes,
        start_steps=config.starts.steps,
        format=options.format,
        layout=options.layout,
    )
    recording.open(workdir, config.commit_every)  # what cannot go on ends here, with all unchanged
    app.prepare_workdir(workdir, config)
    summary = tabletop.record(
        recording, workdir, jobs=config.jobs, commit_every=config.commit_every
    )
    return _result(summary, workdir)


def record_libero(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Lets the controller of `robots.libero` act and writes its demonstrations into `workdir`."""
    from robots.libero import record as libero  # needs LIBERO, which other robots do without

    robot, options = config.robot, config.dataset
    recording = libero.LiberoRecording(
        robot.suite,
        tuple(robot.task_ids),
        size=robot.size,
        seed=config.seed,
        episodes=config.episodes,
        first=config.first,
        keep_every=options.keep_every,
        storage=options.storage,
        masks=options.masks,
        look_at=options.look_at,
        views=tuple(options.views),
        keep_failures=options.keep_failures,
    )
    recording.open(workdir, config.commit_every)  # what cannot go on ends here, with all unchanged
    app.prepare_workdir(workdir, config)
    return _result(libero.record(recording, workdir, commit_every=config.commit_every), workdir)


def _result(summary: Any, workdir: pathlib.Path) -> dict[str, Any]:
    """What --json prints; ends the process when a signal ended the recording."""
    if summary.signal is not None:
        print(
            f"stopped after {summary.episodes} episodes; the same command continues",
            file=sys.stderr,
        )
        sys.exit(128 + summary.signal)
    logging.info("%d of %d attempts succeeded", summary.successes, summary.attempts)
    return {"dataset": workdir, **dataclasses.asdict(summary)}


def record_session(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Lets a selector act with a robot and writes a session into `workdir`."""
    episode_lengths(config.steps, config.episodes)  # bad numbers end here, before anything is made
    options = config.session
    robot = build_robot(config)
    select = selectors.make_selector(
        **config.selector, action_space=robot.action_space, seed=config.seed
    )
    app.prepare_workdir(workdir, config)
    try:
        with SessionWriter(
            workdir,
            action_space=robot.action_space,
            robot_type=type(robot).__name__,
            session_name=options.name,
            shard_size=options.shard_size,
            max_disk_gb=options.max_disk_gb,
            image_format=options.image_format,
            sync=options.sync,
            reclaim=Reclaim(options.reclaim, options.reclaim_dry_run, tuple(options.protect)),
            extra_meta={"robot": dataclasses.asdict(robot.config)},
        ) as writer:
            summary = record(
                robot, select, writer, num_observations=config.steps, episodes=config.episodes
            )
    finally:
        robot.cleanup()
    logging.info("recorded %d observations into %s", summary.observations, workdir)
    return {
        "session": workdir,
        "observations": summary.observations,
        "actions": summary.actions,
        "episodes": summary.episodes,
        "action_counts": summary.action_counts,
    }


if __name__ == "__main__":
    app.run(
        main,
        config=CONFIG,
        field="robot",
        example="configs/toroidal_dot.py:size=64",
        needs_workdir=True,
    )
