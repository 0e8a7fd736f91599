"""Divides a session into growing stages of training and validation and a fixed test part.

    python -m launch.split --session=SESSION --workdir=SPLITS [--num_stages=4] [--test_fraction=0.1]

Writes one index file per part into --workdir and `splits.json` with the whole plan; pictures are
not copied. With --export the parts are written as session folders instead. With --halve_at=N only
two parts are made, the first N observations and the rest (0 for the middle). Existing parts are
refused.
"""

from __future__ import annotations

import pathlib
from typing import Any

from absl import flags

from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data import splits
from attn_jax.data.parts import Part, write_part
from launch import app

SESSION = flags.DEFINE_string("session", None, "Session folder to divide.")
NUM_STAGES = flags.DEFINE_integer(
    "num_stages", None, "Stages of even growth; default is 10, 20, 40, ... observations.", 1
)
TRAIN_FRACTION = flags.DEFINE_float(
    "train_fraction", splits.TRAIN_FRACTION, "Share of a stage that is trained on."
)
TEST_FRACTION = flags.DEFINE_float(
    "test_fraction", 0.1, "Share of the session, at its end, that no stage contains.", 0.0, 0.9
)
EXPORT = flags.DEFINE_bool("export", False, "Write session folders instead of index files.")
HALVE_AT = flags.DEFINE_integer(
    "halve_at", None, "Only divide in two after this many observations; 0 for the middle.", 0
)


def main() -> dict[str, Any]:
    """Writes the parts and returns the plan."""
    if SESSION.value is None:
        raise ConfigError("--session is required", fix="Name a session folder")
    session, folder = pathlib.Path(SESSION.value), pathlib.Path(app.WORKDIR.value)
    total = splits.count_observations(session)
    if HALVE_AT.value is None:
        plan = splits.plan_stages(
            session,
            total,
            num_stages=NUM_STAGES.value,
            train_fraction=TRAIN_FRACTION.value,
            test_observations=round(total * TEST_FRACTION.value),
        )
        parts = plan.parts()
    else:
        parts = splits.halve(session, total, HALVE_AT.value or None)
    targets = [folder / (part.name if EXPORT.value else f"{part.name}.json") for part in parts]
    # All are looked at before the first is written: half a split helps nobody.
    if existing := [target.name for target in targets if target.exists()]:
        raise SessionError(
            f"{len(existing)} parts exist already, {existing[0]} among them",
            where=folder,
            fix="Choose another folder",
        )
    for part, target in zip(parts, targets, strict=True):
        if EXPORT.value:
            splits.export_part(part, folder)
        else:
            write_part(part, target)
    result = {
        "session": session,
        "observations": total,
        "parts": [describe(part, target) for part, target in zip(parts, targets, strict=True)],
    }
    app.write_json(folder / "splits.json", result)
    return result


def describe(part: Part, target: pathlib.Path) -> dict[str, Any]:
    """One line of the plan."""
    return {"name": part.name, "file": target.name, "start": part.start, "stop": part.stop}


if __name__ == "__main__":
    app.run(main, needs_workdir=True)
