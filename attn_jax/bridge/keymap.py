"""Foreign weights into our parameter tree, by a table of names.

A `Rule` names a foreign tensor and where it goes: `{i}` stands for a layer number, a path without
`{i}` fed by a name with `{i}` gets the layers stacked on axis 0 (a scanned stack). A transform
turns one foreign array into one array per path. Everything is accounted for in a `Report`; nothing
is loaded partly.

    rules = [
        Rule("blocks.{i}.mlp.fc1.weight", "encoder/block_{i}/mlp/fc1/kernel", transpose),
        Rule("blocks.{i}.attn.qkv.weight", qkv_paths, split_heads(3, head_dim=64)),
        Ignored("lm_head.weight", "actions do not need it"),
    ]
    params, report = convert(rules, tensors, template)       # template: arrays or ShapeDtypeStructs
    report.require()
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import flax.traverse_util
import numpy as np

from attn_jax.core.errors import CheckpointError
from attn_jax.core.typing import NumpyArray, PathLike

_ALIGNMENT = 64

Arrays: TypeAlias = tuple[NumpyArray, ...]
Transform: TypeAlias = Callable[[NumpyArray], Arrays]


def keep(x: NumpyArray) -> Arrays:
    """As it is."""
    return (x,)


def flatten(x: NumpyArray) -> Arrays:
    """Without its structure: (1, 1, d) becomes (d,)."""
    return (x.reshape(-1),)


def transpose(x: NumpyArray) -> Arrays:
    """A linear layer's (out, in) as (in, out)."""
    return (x.T,)


def convolution(x: NumpyArray) -> Arrays:
    """A convolution's (out, in, height, width) as (height, width, in, out)."""
    return (x.transpose(2, 3, 1, 0),)


def patch_projection(x: NumpyArray) -> Arrays:
    """A patch convolution (d, c, p, p) as a kernel (p * p * c, d); rows are (row, column, c)."""
    return (x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),)


def split_heads(parts: int, head_dim: int) -> Transform:
    """Packed projections (parts * heads * head_dim, in) as `parts` kernels (in, heads, head_dim).

    A bias (parts * heads * head_dim,) becomes `parts` biases (heads, head_dim).
    """

    def apply(x: NumpyArray) -> Arrays:
        split = x.reshape(parts, -1, head_dim, *x.shape[1:])
        return tuple(np.moveaxis(part, -1, 0) if x.ndim == 2 else part for part in split)

    return apply


def merge_heads(head_dim: int) -> Transform:
    """An output projection (out, heads * head_dim) as a kernel (heads, head_dim, out)."""
    return lambda x: (x.T.reshape(-1, head_dim, x.shape[0]),)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
      source: foreign name; `{i}` matches a number.
      paths: our path or paths, levels joined by `/`; `{i}` is the same number.
      transform: gives one array per path, in the same order.
    """

    source: str
    paths: str | tuple[str, ...]
    transform: Transform = keep


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Foreign tensors that are not loaded on purpose.

    Attributes:
      source: foreign name; `{i}` matches a number.
      reason: why, for the report.
    """

    source: str
    reason: str


@dataclasses.dataclass(frozen=True)
class MisShaped:
    """A tensor that does not fit; shapes are those of our parameter, or of the foreign tensor."""

    source: str
    path: str
    got: tuple[int, ...]
    expected: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every tensor.

    Attributes:
      loaded: foreign name -> our paths.
      missing: our paths that no foreign tensor fed.
      unexpected: foreign names that no rule knows.
      mis_shaped: tensors that do not fit.
      ignored: foreign name -> reason.
    """

    loaded: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mis_shaped: tuple[MisShaped, ...]
    ignored: Mapping[str, str]

    @property
    def complete(self) -> bool:
        """Whether every parameter was fed and every foreign tensor is accounted for."""
        return not (self.missing or self.unexpected or self.mis_shaped)

    def require(self, where: PathLike | None = None) -> None:
        """Raises `CheckpointError` with the whole list unless the report is `complete`."""
        if not self.complete:
            raise CheckpointError(
                "weights do not fit the model\n" + self.text(loaded=False),
                where=where,
                fix="Check that the file belongs to this architecture and its sizes",
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON-compatible dict."""
        return {
            "complete": self.complete,
            "loaded": {name: list(paths) for name, paths in self.loaded.items()},
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "mis_shaped": [dataclasses.asdict(item) for item in self.mis_shaped],
            "ignored": dict(self.ignored),
        }

    def text(self, *, loaded: bool = True) -> str:
        """One line per tensor under headings with counts; `loaded` lists the loaded ones too."""
        sections = {
            "loaded": [f"{name} -> {', '.join(to)}" for name, to in self.loaded.items()],
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "mis-shaped": [
                f"{m.source} -> {m.path}: {m.got}, the model needs {m.expected}"
                for m in self.mis_shaped
            ],
            "ignored": [f"{name}: {reason}" for name, reason in self.ignored.items()],
        }
        lines = []
        for title, items in sections.items():
            lines.append(f"{title}: {len(items)}")
            if loaded or title != "loaded":
                lines.extend(f"  {item}" for item in items)
        return "\n".join(lines)


def convert(
    rules: Sequence[Rule | Ignored], tensors: Mapping[str, Any], template: Mapping[str, Any]
) -> tuple[dict[str, Any], Report]:
    """Applies the table.

    Args:
      rules: the first rule whose `source` matches a name is used.
      tensors: foreign name -> array; read one at a time, so a lazy mapping stays lazy.
      template: our parameters, arrays or `jax.ShapeDtypeStruct`s; gives paths, shapes and dtypes.

    Returns:
      (params, report): nested dict of NumPy arrays in the template's dtypes, without the parameters
      that could not be filled; and the account. Call `report.require()` before using `params`.
    """
    wanted: dict[str, Any] = dict(flax.traverse_util.flatten_dict(dict(template), sep="/"))
    compiled = [(_pattern(rule.source), rule) for rule in rules]
    loaded: dict[str, tuple[str, ...]] = {}
    unexpected, ignored = [], {}
    mis_shaped: list[MisShaped] = []
    pieces: dict[str, dict[int | None, tuple[str, NumpyArray]]] = defaultdict(dict)
    for name in tensors:
        match, rule = _first_match(compiled, name)
        if rule is None or match is None:
            unexpected.append(name)
            continue
        if isinstance(rule, Ignored):
            ignored[name] = rule.reason
            continue
        number = match.groupdict().get("i")
        patterns = (rule.paths,) if isinstance(rule.paths, str) else rule.paths
        paths = tuple(path.replace("{i}", number or "") for path in patterns)
        array = np.asarray(tensors[name])
        parts = _transformed(rule, array)
        if parts is None or len(parts) != len(paths):
            expected = tuple(tuple(wanted[path].shape) for path in paths if path in wanted)
            mis_shaped.append(MisShaped(name, ", ".join(paths), array.shape, sum(expected, ())))
            continue
        if not all(path in wanted for path in paths):
            unexpected.append(name)
            continue
        for pattern, path, part in zip(patterns, paths, parts, strict=True):
            if number is not None and "{i}" not in pattern:
                pieces[path][int(number)] = (name, part)
                continue
            leaf = wanted[path]
            if part.shape == tuple(leaf.shape):
                part = _own_copy(part, leaf.dtype)
            pieces[path][None] = (name, part)
        loaded[name] = paths
        # A lazy source is let go before the next one is read.
        del array, parts, part
    params, missing = {}, []
    for path, leaf in wanted.items():
        array = _assemble(pieces.get(path, {}), tuple(leaf.shape), path, mis_shaped)
        if array is not None:
            params[path] = np.ascontiguousarray(array, dtype=leaf.dtype)
        elif path not in pieces:
            missing.append(path)
    misfits = {item.source for item in mis_shaped}
    report = Report(
        {name: paths for name, paths in loaded.items() if name not in misfits},
        tuple(missing),
        tuple(unexpected),
        tuple(mis_shaped),
        ignored,
    )
    return flax.traverse_util.unflatten_dict(params, sep="/"), report


def _pattern(source: str) -> re.Pattern[str]:
    return re.compile(re.escape(source).replace(r"\{i\}", r"(?P<i>\d+)"))


def _first_match(
    compiled: Sequence[tuple[re.Pattern[str], Rule | Ignored]], name: str
) -> tuple[re.Match[str] | None, Rule | Ignored | None]:
    for pattern, rule in compiled:
        if match := pattern.fullmatch(name):
            return match, rule
    return None, None


def _transformed(rule: Rule, array: NumpyArray) -> Arrays | None:
    """None where the array lacks the axes or the divisibility that the transform needs."""
    try:
        return rule.transform(array)
    except (ValueError, IndexError):
        return None


def _own_copy(array: NumpyArray, dtype: Any) -> NumpyArray:
    """A contiguous copy that starts at a multiple of 64 bytes, which JAX on CPU takes as it is."""
    size = array.size * np.dtype(dtype).itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    out = raw[start : start + size].view(dtype).reshape(array.shape)
    np.copyto(out, array, casting="unsafe")
    return out


def _assemble(
    parts: Mapping[int | None, tuple[str, NumpyArray]],
    expected: tuple[int, ...],
    path: str,
    mis_shaped: list[MisShaped],
) -> NumpyArray | None:
    """The array of one parameter, or None, after noting parts that do not fit."""
    if not parts:
        return None
    if None in parts:
        name, array = parts[None]
        if array.shape == expected:
            return array
        mis_shaped.append(MisShaped(name, path, array.shape, expected))
        return None
    fitting = True
    for name, array in parts.values():
        if array.shape != expected[1:]:
            mis_shaped.append(MisShaped(name, path, array.shape, expected[1:]))
            fitting = False
    if sorted(n for n in parts if n is not None) != list(range(expected[0])):
        name = next(iter(parts.values()))[0]
        got = (len(parts), *expected[1:])
        mis_shaped.append(MisShaped(name, path, got, expected))
        fitting = False
    return np.stack([parts[n][1] for n in range(expected[0])]) if fitting else None
