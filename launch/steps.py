"""Several launchers, one after the other, as one command that can be interrupted.

A step is an ordinary command, printed before it runs, so that it can be repeated with other values.
What is finished is not done again.

    folder = prepare("out/demo", {"seed": 0}, kind="demo")
    timing = run_steps(folder, [Step("train", ("train", "--workdir=..."))])
"""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import PathLike
from launch import app


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
      name: shown to the user.
      command: launcher and its flags.
      done: whether an earlier attempt finished it.
      leftovers: what an interrupted attempt may have left; removed before the command runs.
    """

    name: str
    command: tuple[str, ...]
    done: bool = False
    leftovers: pathlib.Path | None = None


def prepare(
    folder: PathLike, settings: Mapping[str, Any], *, kind: str, fresh: bool = False
) -> pathlib.Path:
    """Makes the folder, or checks that it holds the same thing, and returns it.

    Args:
      folder: where everything goes.
      settings: JSON-compatible; kept in `<kind>.json`.
      kind: what the steps make, for example `demo`.
      fresh: delete what is there.

    Raises:
      ConfigError: the folder holds something else, or the same with other settings.
    """
    folder = pathlib.Path(folder)
    marker = folder / f"{kind}.json"
    if folder.exists() and any(folder.iterdir()) and not marker.is_file():
        raise ConfigError(f"is not the folder of a {kind}", where=folder, fix="Name another one")
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not marker.is_file():
        app.write_json(marker, settings)
    elif app.read_json(marker) != settings:
        raise ConfigError(
            f"holds a {kind} with other settings",
            where=folder,
            fix="Add --fresh to start again, or name another folder",
        )
    return folder


def run_steps(folder: pathlib.Path, steps: Sequence[Step]) -> dict[str, float]:
    """Runs every step; returns their seconds and `total`, which also go into `timing.json`.

    A step that fails ends the process with its exit code.
    """
    started = time.monotonic()
    timing: dict[str, float] = {}
    for step in steps:
        if step.done:
            print(f"[{step.name}] already done", flush=True)
            continue
        if step.leftovers is not None:
            shutil.rmtree(step.leftovers, ignore_errors=True)
        timing[step.name] = run_step(step)
    timing["total"] = time.monotonic() - started
    app.write_json(folder / "timing.json", timing)
    return timing


def run_step(step: Step) -> float:
    """Runs a launcher in its own process; returns its seconds."""
    verb, *arguments = step.command
    shown = shlex.join(["python", "-m", f"launch.{verb}", *arguments])
    print(f"\n[{step.name}] {shown}", flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"launch.{verb}", *arguments], check=False)
    if done.returncode:
        print(f"error: the step '{step.name}' failed, see above", file=sys.stderr, flush=True)
        sys.exit(done.returncode)
    seconds = time.monotonic() - started
    print(f"[{step.name}] {seconds:.1f} s", flush=True)
    return seconds
