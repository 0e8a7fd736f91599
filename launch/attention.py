"""Looks into attention records, checks them, and converts them from and to older formats.

    python -m launch.attention inspect RECORD [--json]
    python -m launch.attention verify RECORD [--json]
    python -m launch.attention convert SOURCE TARGET [--cameras=agentview,wrist,empty] [--call=0]
    python -m launch.attention overlay RUN [--video=FILE] [--episodes=0,1] [--layer=17] [--fps=5]

RECORD is a run folder, which has `episodes/`, or one episode. `inspect` shows sizes, shapes,
streams, layers, heads, steps, token groups, codecs with their error, row sums and where the mass
goes, from a few calls of every episode. `verify` reads everything; the exit code is 0 when all of
it is good and 2 when something is not.

`convert` reads `episode_*_attention.pt` (one, or a folder of them), `attn_map_layer_*.npy` (one, or
a folder of them) and `attn_all_layers.npz` into a run folder, losslessly. The other way round, a
RECORD becomes a `.pt` episode (its suffix), a `.npz` or a folder of `.npy` (the prefix of one
call). `.pt` files need torch and are read weights-only. HDF5 files per frame and prompt,
`00008_base.h5`, are read from a folder (other prompts become `variants/`) and written with
--to=hdf5. `inspect` takes any of these files too, and `episode_*_uncertainty.pt`, which hold no
attention: it shows their metadata.

`overlay` draws the maps over the pictures: over the video of an episode where it has one, else over
its recorded observations, as `overlays/episode_00000.mp4`; with --timesteps=0,5,10 as pictures
`overlays/episode_00000/timestep_000_<camera>.png` instead. A time between two calls shows the
nearest previous one, which the title names.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.table
from absl import flags

from attn_jax.bridge import seed_formats, seed_hdf5
from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.probe.summary import summarise
from attn_jax.probe.verify import VerifyReport, verify
from launch import app, attention_overlay
from launch.attention_convert import convert, inspect_seed

USAGE = "Use: launch.attention inspect|verify RECORD, convert SOURCE TARGET, or overlay RUN"

LEGEND = (
    "shape: call x denoise x layer x head x query x key; error: largest absolute one of "
    "what was written; bound: the largest that the codec can make"
)

CAMERAS = flags.DEFINE_list(
    "cameras",
    None,
    "convert: names of all camera slots in token order, dummies included. overlay: which to draw.",
)
GRID = flags.DEFINE_list("grid", ["16", "16"], "convert: rows and columns of a camera's tokens.")
CALL = flags.DEFINE_integer("call", 0, "convert: which call becomes .npz or .npy.", lower_bound=0)

TO = flags.DEFINE_enum(
    "to",
    "auto",
    ["auto", "hdf5"],
    "convert: hdf5 writes a folder of files per frame and prompt.",
    allow_override=True,
)


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Runs the verb.

    Raises:
      ConfigError: an unknown verb, or another number of paths than it takes.
      RecordError: no record there, or one that is not good; the report was printed before.
    """
    words = {"inspect": 2, "verify": 2, "convert": 3, "overlay": 2}
    if not arguments or words.get(arguments[0]) != len(arguments):
        asked = f"cannot {' '.join(arguments)!r}" if arguments else "a verb is needed"
        raise ConfigError(asked, fix=USAGE)
    if arguments[0] == "convert":
        source, target = (pathlib.Path(word) for word in arguments[1:])
        return convert(
            source, target, cameras=CAMERAS.value, grid=_grid(), call=CALL.value, to=TO.value
        )
    verb, path = arguments
    if verb == "overlay":
        return attention_overlay.from_flags(pathlib.Path(path), CAMERAS.value)
    file = pathlib.Path(path)
    older = file.exists() and (seed_formats.is_seed(file) or seed_hdf5.is_seed_hdf5(file))
    if verb == "inspect" and older:
        found = inspect_seed(file, CAMERAS.value, _grid())
        if not app.JSON.value:
            for name, value in found.items():
                print(f"{name}: {value}")
        return found
    if verb == "inspect":
        summary = summarise(path)
        if not app.JSON.value:
            show_summary(summary, rich.console.Console())
        return summary
    report = verify(path)
    if not app.JSON.value:
        show_report(report, rich.console.Console())
    if not report.ok:
        if app.JSON.value:
            print(json.dumps(app.jsonable(report.to_json()), sort_keys=True), flush=True)
        count = len(report.problems)
        raise RecordError(
            f"{count} problem{'s' if count > 1 else ''} in the record: {report.problems[0]}",
            where=path,
            fix="Calls that are not named are readable",
        )
    return report.to_json()


def _grid() -> tuple[int, int]:
    sides = [int(side) for side in GRID.value if side.isdecimal()]
    if len(sides) != 2 or min(sides) < 1:
        raise ConfigError(f"--grid={','.join(GRID.value)} is not rows,columns")
    return sides[0], sides[1]


def show_summary(summary: dict[str, Any], console: rich.console.Console) -> None:
    """Prints a summary as tables."""
    for episode in summary["episodes"]:
        state = "complete" if episode["complete"] else "not closed"
        steps = episode["env_step"]
        span = f", environment steps {steps[0]} to {steps[-1]}" if steps else ""
        console.print(f"[bold]{episode['name']}[/bold]: {episode['calls']} calls{span}, {state}")
        for key, value in episode["info"].items():
            console.print(f"  {key}: {value}", markup=False)
        table = _table("record", "shape", "codec", "error", "bound", "row sums", "size")
        for name, record in episode["records"].items():
            table.add_row(
                name,
                " x ".join(map(str, record["shape"])),
                record["codec"],
                f"{record['max_abs_error']:.2g}",
                f"{record['bound_max_abs_error']:.2g}",
                "" if record["row_sum_error"] is None else f"1±{record['row_sum_error']:.1g}",
                _size(record["bytes"]),
            )
        console.print(table)
        console.print(LEGEND)
        for name, record in episode["records"].items():
            console.print(
                f"{name}: layers {_ranges(record['layers'])}; "
                f"heads {_ranges(record['heads']) or 'averaged'}; "
                f"denoising steps {_ranges(record['denoise'])}\n"
                f"  queries {_groups(record['queries'])}\n  keys {_groups(record['keys'])}",
                markup=False,
            )
        for name, by_layer in _masses(episode["records"]).items():
            _show_mass(name, by_layer, console)


def _masses(records: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Group masses by stream, from the record that holds all heads when there are several."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for record in records.values():
        if record["group_mass"] and (record["stream"] not in found or record["heads"]):
            found[record["stream"]] = record["group_mass"]
    return found


def _show_mass(
    name: str, by_layer: dict[str, dict[str, float]], console: rich.console.Console
) -> None:
    groups = list(next(iter(by_layer.values())))
    table = _table(f"{name}: mean mass by layer", *groups)
    for layer, masses in by_layer.items():
        table.add_row(layer, *(f"{masses[group]:.3f}" for group in groups))
    console.print(table)


def show_report(report: VerifyReport, console: rich.console.Console) -> None:
    """Prints what `verify` found."""
    for episode in report.episodes:
        console.print(f"{episode.name}: {episode.num_calls} calls")
        table = _table("record", "shape", "codec", "error", "bound", "row sums", "size")
        for record in episode.records:
            error = record.max_row_sum_error
            table.add_row(
                record.name,
                " x ".join(map(str, record.shape)),
                record.codec,
                f"{record.max_abs_error:.2g}",
                f"{record.error_bound:.2g}",
                "" if error is None else f"1±{error:.1g}",
                _size(record.num_bytes),
            )
        console.print(table)
    if report.episodes:
        console.print(LEGEND)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    for problem in report.problems:
        console.print(f"problem: {problem}", markup=False)
    console.print("good" if report.ok else "NOT GOOD")


def _table(*columns: str) -> rich.table.Table:
    table = rich.table.Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number > 0)
    return table


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in ascending order as `0-3, 7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _groups(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" if count > 1 else name for name, count in counts.items())


def _size(num_bytes: int) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} GB"


if __name__ == "__main__":
    app.run(main, positional=True)
