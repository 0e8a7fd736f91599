"""Small sessions for tests: noise pictures, so that no two frames are alike, kept without loss."""

from __future__ import annotations

import itertools
import json
import pathlib

import numpy as np

from attn_jax.data.session_writer import SessionWriter

ACTION_SPACE = ({"action": 0}, {"action": 1})


def noise(seed: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_session(
    path: pathlib.Path,
    num_observations: int = 6,
    *,
    episodes: int = 1,
    size: tuple[int, int] = (16, 16),
    seed: int = 0,
    **options,
) -> pathlib.Path:
    """`num_observations` per episode; action i is i % 2, timestamps count 0, 1, 2, ..."""
    options = {"image_format": "png", "sync": False, "clock": itertools.count().__next__} | options
    with SessionWriter(path, action_space=ACTION_SPACE, robot_type="Fake", **options) as writer:
        for episode in range(episodes):
            if episodes > 1:
                writer.start_episode()
            for number in range(num_observations):
                if number:
                    writer.action({"action": (number - 1) % 2})
                writer.observation(noise(seed + 1000 * episode + number, size))
    return path


def shard_lines(session: pathlib.Path, shard: int = 0) -> list[str]:
    return (session / f"events_shard_{shard:03d}.jsonl").read_text().splitlines()


def rewrite_shard(session: pathlib.Path, lines: list[str], shard: int = 0) -> None:
    text = "".join(line + "\n" for line in lines)
    (session / f"events_shard_{shard:03d}.jsonl").write_text(text)


def edit_event(session: pathlib.Path, step: int, /, **changes) -> None:
    """Changes fields of the event of `step` in the first shard."""
    events = [json.loads(line) for line in shard_lines(session)]
    events = [event | changes if event["step"] == step else event for event in events]
    rewrite_shard(session, [json.dumps(event) for event in events])


def drop_event(session: pathlib.Path, step: int) -> None:
    """Removes the event of `step` from the first shard."""
    events = [json.loads(line) for line in shard_lines(session)]
    rewrite_shard(session, [json.dumps(event) for event in events if event["step"] != step])
