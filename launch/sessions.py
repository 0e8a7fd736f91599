"""Looks at recorded sessions.

    python -m launch.sessions validate SESSION... [--json]

`validate` reads everything of each session and names every bad step. The exit code is 0 when all
are good and 2 when one is not.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from attn_jax.core.errors import ConfigError, SessionError
from attn_jax.data.session_check import SessionReport, validate_session
from launch import app

USAGE = "Use: python -m launch.sessions validate SESSION..."


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs the verb.

    Raises:
      ConfigError: no or an unknown verb, or no session.
      SessionError: a session is bad; its problems were printed before.
    """
    verb, *paths = arguments or ("",)
    if verb != "validate" or not paths:
        raise ConfigError(
            "a verb and a session are needed" if not paths else f"cannot {verb!r}", fix=USAGE
        )
    reports = [validate_session(path) for path in paths]
    result = {"ok": all(report.ok for report in reports), "sessions": list(map(as_json, reports))}
    if not app.JSON.value:
        for report in reports:
            print(describe(report))
    bad = [str(report.session) for report in reports if not report.ok]
    if bad:
        if app.JSON.value:
            print(json.dumps(app.jsonable(result), sort_keys=True), flush=True)
        count = sum(len(report.problems) for report in reports)
        raise SessionError(
            f"{count} problem{'s' if count > 1 else ''} in {', '.join(bad)}",
            fix="Canvases across steps without a line are left out; record again to have them",
        )
    return result


def as_json(report: SessionReport) -> dict[str, Any]:
    """The report as plain data, with `ok`."""
    return {"ok": report.ok, **dataclasses.asdict(report)}


def describe(report: SessionReport) -> str:
    """One line about the session and one for each problem."""
    size = "no readable frame" if report.frame_size is None else "{}x{}".format(*report.frame_size)
    lines = [
        f"{report.session}: {'good' if report.ok else 'BAD'}; {report.observations} observations, "
        f"{report.actions} actions, {report.episodes} episodes, {size}"
    ]
    for problem in report.problems:
        where = "" if problem.step is None else f"step {problem.step}: "
        lines.append(f"  {problem.kind}: {where}{problem.message}")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main, positional=True)
