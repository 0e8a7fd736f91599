"""What a canvas report is made of, read from the folders that training and evaluation leave.

`EVAL/` holds `evaluation.json`, `pictures.npz` and, when attention was captured, `attention/`; the
training workdir holds `metrics.jsonl`, `config.json` and `run.json`. Nothing here needs a model.

Axis names: n examples, m observations, a actions, r rollouts, k horizon, h w pixels of a frame, H W
of a canvas.

    run = load_canvas_run("out/evaluation", "out/train")
    run.evaluation["skill"]["plain_mse"], run.pictures["prediction"].shape
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import PathLike
from attn_jax.probe.store import RecordReader
from attn_jax.probe.verify import verify
from attn_jax.viz.report import ReportError

_SKILL = ("plain_mse", "copy_last_mse", "best_constant_mse", "black_mse", "canvases")
_AXES = {
    "canvas": "nHW3",
    "prediction": "nhw3",
    "target": "nhw3",
    "counterfactual/context": "mHW3",
    "counterfactual/prediction": "mahw3",
    "counterfactual/truth": "mahw3",
    "rollout/prediction": "rkhw3",
    "rollout/truth": "rkhw3",
    "attention_canvas": "cHW3",
}
_NEEDED = ("canvas", "prediction", "target")


@dataclasses.dataclass(frozen=True)
class CanvasRun:
    """One evaluated canvas model.

    Attributes:
      evaluation: contents of `evaluation.json`.
      pictures: name -> uint8 array; `canvas` (n,H,W,3), `prediction` and `target` (n,h,w,3),
        optionally `counterfactual/context` (m,H,W,3), `counterfactual/prediction` and
        `counterfactual/truth` (m,a,h,w,3), `rollout/prediction` and `rollout/truth` (r,k,h,w,3),
        `attention_canvas` (c,H,W,3).
      records: stream -> attention of the canvases in `attention_canvas`, same order of calls.
      metrics: lines of `metrics.jsonl`.
      config: the training configuration.
      provenance: seed, revision, versions of the training run.

    Raises:
      ReportError: when something needed is missing or shapes contradict each other.
    """

    evaluation: Mapping[str, Any]
    pictures: Mapping[str, np.ndarray]
    records: Mapping[str, AttentionRecord] = dataclasses.field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name in ("skill", "geometry"):
            if not isinstance(self.evaluation.get(name), Mapping):
                raise ReportError(
                    f"evaluation.json has no {name!r}", fix="Run launch.evaluate again"
                )
        missing = [name for name in _SKILL if self.evaluation["skill"].get(name) is None]
        if missing:
            raise ReportError(f"evaluation.json lacks skill numbers {missing}")
        missing = [name for name in _NEEDED if name not in self.pictures]
        if missing:
            raise ReportError(f"pictures.npz lacks {missing}", fix="Run launch.evaluate again")
        self._check_shapes()
        for stream, record in self.records.items():
            shown = self.pictures.get("attention_canvas")
            if shown is None or len(shown) != record.shape[0]:
                raise ReportError(
                    f"stream {stream!r} has {record.shape[0]} calls, attention_canvas holds "
                    f"{0 if shown is None else len(shown)} pictures"
                )

    def _check_shapes(self) -> None:
        height, width = self.geometry.frame_size
        canvas_height, canvas_width = self.geometry.canvas_size
        sizes = {"h": height, "w": width, "H": canvas_height, "W": canvas_width, "3": 3}
        for name, axes in _AXES.items():
            if name not in self.pictures:
                continue
            array = self.pictures[name]
            fits = array.dtype == np.uint8 and array.ndim == len(axes)
            for letter, size in zip(axes, array.shape, strict=False):
                if letter != "c":
                    fits = fits and sizes.setdefault(letter, size) == size
            if not fits:
                raise ReportError(
                    f"{name} has shape {array.shape} of {array.dtype}, expected uint8 axes {axes} "
                    f"that fit {sizes}",
                    where="pictures.npz",
                )

    @property
    def geometry(self) -> CanvasGeometry:
        """Geometry of the canvases."""
        fields = dict(self.evaluation["geometry"])
        frame_size = fields.pop("frame_size")
        return CanvasGeometry((frame_size[0], frame_size[1]), **fields)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions, in the order of the counterfactual pictures."""
        return tuple(str(name) for name in self.evaluation.get("action_names") or ())

    @property
    def action_colours(self) -> np.ndarray | None:
        """Stripe colours of the actions, (a, 3) uint8; None when the evaluation lacks them."""
        colours = self.evaluation.get("action_colours")
        return None if colours is None else np.asarray(colours, np.uint8)

    def curve(self, name: str, x: str = "samples") -> tuple[list[float], list[float]]:
        """One logged series: (x values, values) of the lines that hold both."""
        lines = [m for m in self.metrics if m.get(name) is not None and m.get(x) is not None]
        return [float(m[x]) for m in lines], [float(m[name]) for m in lines]


def load_canvas_run(
    evaluation: PathLike, train: PathLike, attention: PathLike | None = None
) -> CanvasRun:
    """Reads a run from its folders.

    Args:
      evaluation: folder that `launch.evaluate` wrote.
      train: training workdir.
      attention: record store; None takes `attention` in the evaluation folder, if there is one.

    Raises:
      ReportError: when a file is missing or unreadable, or contents contradict each other.
      RecordError: when the record store is damaged, or named and missing.
    """
    evaluation, train = pathlib.Path(evaluation), pathlib.Path(train)
    if attention is None and (evaluation / "attention").is_dir():
        attention = evaluation / "attention"
    return CanvasRun(
        evaluation=_read_json(evaluation / "evaluation.json"),
        pictures=_read_pictures(evaluation / "pictures.npz"),
        records={} if attention is None else _full_maps(attention),
        metrics=_read_lines(train / "metrics.jsonl"),
        config=_read_json(train / "config.json"),
        provenance=_read_json(train / "run.json"),
    )


def _full_maps(path: PathLike) -> dict[str, AttentionRecord]:
    """Streams of which whole maps were kept; their values are read when they are sliced.

    Shares of attention need every key: of a row without some of them no area can be told.

    Raises:
      RecordError: there is no record, or `launch.attention verify` finds it damaged; a flipped bit
        would be drawn like any other number.
    """
    reader = RecordReader(path)
    found = verify(path)
    if not found.ok:
        raise RecordError(
            found.problems[0],
            where=path,
            fix="Record the attention again; launch.attention verify names every problem",
        )
    records = [reader.record(name) for name in reader.names]
    return {r.stream: r for r in records if r.reduction == "full" and r.complete_rows}


def _read_text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReportError(
            "file is missing", where=path, fix="Run launch.train, then launch.evaluate"
        ) from error


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ReportError(f"not valid JSON: {error}", where=path) from error
    if not isinstance(content, dict):
        raise ReportError("does not hold a JSON object", where=path)
    return content


def _read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Lines of JSON; a torn last line, left by a killed run, is ignored."""
    lines = _read_text(path).splitlines()
    out = []
    for number, line in enumerate(lines):
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines) - 1:
                break
            raise ReportError(
                f"line {number + 1} is not valid JSON: {error}", where=path
            ) from error
    return out


def _read_pictures(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in _AXES if name in archive}
    except FileNotFoundError as error:
        raise ReportError("file is missing", where=path, fix="Run launch.evaluate") from error
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ReportError(f"cannot be read as npz: {error}", where=path) from error
