"""One self-contained HTML page from text, tables and pictures, and a JSON twin with its numbers.

The page needs no network and no script: pictures are data URIs, the little style sheet is inline.
Text is escaped. A size budget is kept by encoding the biggest pictures more tightly, never by
dropping one.

    section = Section("skill", "Skill", (Text("The model predicts."), table))
    report = Report("Canvas world model", (section,), data=numbers)
    write_report(report, "report.html")            # writes report.html and report.json
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from attn_jax.core import files
from attn_jax.core.errors import ConfigError, InputError
from attn_jax.core.typing import NumpyArray, PathLike, UInt8

DEFAULT_BUDGET = 2_000_000
MISSING = "n/a"
#: Figures carry more pixels than the page shows, for sharp screens and print.
PIXELS_PER_CSS_PIXEL = 1.5
#: Steps of ever tighter encoding: (scale, quality); quality None is lossless.
_LADDER = ((1.0, None), (1.0, 88), (1.0, 72), (0.75, 72), (0.6, 65), (0.45, 55))


class ReportError(InputError):
    """A report cannot be written: a picture, an identifier or the size budget does not fit."""


@dataclasses.dataclass(frozen=True)
class Text:
    """Paragraphs of plain text.

    Attributes:
      paragraphs: one string per paragraph.
      emphasis: `good`, `mixed` or `bad` draws the block as a marked verdict; empty is ordinary
        text.
    """

    paragraphs: tuple[str, ...] | str
    emphasis: str = ""

    def __post_init__(self):
        if isinstance(self.paragraphs, str):
            object.__setattr__(self, "paragraphs", (self.paragraphs,))
        if self.emphasis not in ("", "good", "mixed", "bad"):
            raise ConfigError(f"unknown emphasis {self.emphasis!r}", fix="good, mixed, bad or none")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a caption; the first column names the row.

    Attributes:
      caption: what the table shows and how to read it.
      columns: column headings, the first for the row names.
      rows: cells; numbers are formatted, None and NaN are written as not available.
      best: numbers of the rows to mark as the best.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    best: tuple[int, ...] = ()

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ConfigError(
                    f"row {row[0]!r} has {len(row)} cells, the table {len(self.columns)} columns"
                )


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture with words.

    Attributes:
      name: identifier, unique in the report, letters digits and dashes.
      pixels: (h, w, 3) uint8.
      alt: what is seen, for readers who do not see it.
      caption: how to read it and what it shows.
      data: numbers behind it, for the JSON twin.
    """

    name: str
    pixels: UInt8[NumpyArray, "h w 3"]
    alt: str
    caption: str
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Definitions:
    """A list of terms with their values or meanings."""

    items: tuple[tuple[str, Any], ...]


Block = Text | Table | Picture | Definitions


@dataclasses.dataclass(frozen=True)
class Section:
    """A headed part of a report; `name` is its anchor, letters digits and dashes."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
      title: heading of the page.
      sections: in reading order.
      lead: one sentence under the heading.
      data: top-level entries of the JSON twin.
    """

    title: str
    sections: tuple[Section, ...]
    lead: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        names = [section.name for section in self.sections]
        names += [p.name for p in pictures(self)]
        for name in names:
            if not name.replace("-", "").isalnum() or names.count(name) > 1:
                raise ReportError(f"identifier {name!r} is malformed or repeats", where=self.title)
        clash = {"title", "sections"} & set(self.data)
        if clash:
            raise ReportError(f"data may not hold {sorted(clash)}", where=self.title)


def pictures(report: Report) -> list[Picture]:
    """Pictures of a report in reading order."""
    return [b for s in report.sections for b in s.blocks if isinstance(b, Picture)]


def format_number(value: Any, *, trim: bool = False) -> str:
    """A value as a reader wants it: three significant digits, thousands kept apart.

    Args:
      value: a number, a truth value, None, or anything that prints well.
      trim: leave out zeros at the end, for prose; in a table they keep digits aligned.
    """
    if value is None or (isinstance(value, (float, np.floating)) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{int(value):,}".replace(",", "\u202f")
    if isinstance(value, (float, np.floating)):
        if value == 0:
            return "0"
        if not 1e-4 <= abs(value) < 1e6:
            return f"{value:.2e}"
        text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
        return text.rstrip("0").rstrip(".") if trim and "." in text else text
    return str(value)


def span(low: float | int | None, high: float | int | None) -> str:
    """Two bounds in words; not available where one is missing, as with a single episode."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return MISSING
    return f"{format_number(low)} to {format_number(high)}"


def plain(value: Any) -> Any:
    """JSON types only: arrays become lists or numbers, tuples lists, non-finite numbers None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ReportError(f"a {type(value).__name__} cannot be written to the JSON twin")


def twin(report: Report) -> dict[str, Any]:
    """The JSON twin: `data`, then title and sections with table cells and pictures' numbers."""
    sections = [
        {"name": s.name, "title": s.title, "blocks": [_block_twin(block) for block in s.blocks]}
        for s in report.sections
    ]
    return plain({**report.data, "title": report.title, "sections": sections})


def _block_twin(block: Block) -> dict[str, Any]:
    match block:
        case Text():
            return {"kind": "text", "paragraphs": block.paragraphs}
        case Table():
            return {
                "kind": "table",
                "caption": block.caption,
                "columns": block.columns,
                "rows": block.rows,
            }
        case Picture():
            return {
                "kind": "picture",
                "name": block.name,
                "alt": block.alt,
                "caption": block.caption,
                "data": block.data,
            }
        case Definitions():
            return {"kind": "definitions", "items": dict(block.items)}


def render(report: Report, *, budget: int = DEFAULT_BUDGET) -> str:
    """The HTML page.

    Args:
      report: what to show.
      budget: largest size of the page, bytes.

    Raises:
      ReportError: when the page cannot be made small enough; names the biggest picture.
    """
    shown = pictures(report)
    page_size = len(_fill(report, {p.name: "" for p in shown}).encode())
    encoded = _fit(shown, budget - page_size, budget)
    return _fill(report, encoded)


def _fill(report: Report, sources: Mapping[str, str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.tests["numeric"] = lambda v: (
        isinstance(v, (int, float, np.number)) and not isinstance(v, bool)
    )
    environment.globals["shown"] = lambda pixels: round(pixels / PIXELS_PER_CSS_PIXEL)
    environment.globals["kind"] = lambda block: type(block).__name__.lower()
    template = environment.get_template("report.html.j2")
    return template.render(report=report, sources=sources)


def _fit(shown: Sequence[Picture], available: int, budget: int) -> dict[str, str]:
    """Data URIs of pictures that together take at most `available` characters."""
    rung = {p.name: 0 for p in shown}
    by_name = {p.name: p for p in shown}
    uris = {p.name: _data_uri(p, 0) for p in shown}
    while uris and sum(map(len, uris.values())) > available:
        loose = [name for name in uris if rung[name] + 1 < len(_LADDER)]
        if not loose:
            biggest = max(uris, key=lambda name: len(uris[name]))
            raise ReportError(
                f"the page does not fit into {budget} bytes; the biggest picture is {biggest!r} "
                f"with {len(uris[biggest])} bytes at its tightest",
                fix="Show fewer or smaller pictures, or raise the budget",
            )
        name = max(loose, key=lambda name: len(uris[name]))
        rung[name] += 1
        tighter = _data_uri(by_name[name], rung[name])
        if len(tighter) < len(uris[name]):
            uris[name] = tighter
    return uris


def _data_uri(picture: Picture, rung: int) -> str:
    scale, quality = _LADDER[rung]
    image = Image.fromarray(picture.pixels)
    if scale < 1.0:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if quality is None:
        image.save(stream, "WEBP", lossless=True, quality=60, method=4)
    else:
        image.save(stream, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def checked_page(path: PathLike) -> pathlib.Path:
    """The path of a page; raises ReportError when it has no `.html` suffix."""
    page = pathlib.Path(path)
    if page.suffix != ".html":
        raise ReportError("a report is written to a file ending in .html", where=page)
    return page


def write_report(
    report: Report, path: PathLike, *, budget: int = DEFAULT_BUDGET
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes the page and, beside it, the JSON twin with the suffix `.json`; both atomically.

    Returns:
      Paths of the page and of the twin.

    Raises:
      ReportError: when the page does not fit, or the path has no `.html` suffix.
      DiskFullError: no space left; an earlier page stays.
    """
    page = checked_page(path)
    html = render(report, budget=budget)
    numbers = json.dumps(twin(report), indent=2, sort_keys=True, allow_nan=False) + "\n"
    with files.disk_errors(page, what="a report"):
        page.parent.mkdir(parents=True, exist_ok=True)
        for target, content in ((page.with_suffix(".json"), numbers), (page, html)):
            files.replace_file(target, lambda file, text=content: file.write(text.encode()))
    return page, page.with_suffix(".json")
