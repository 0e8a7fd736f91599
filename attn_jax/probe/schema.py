"""Schema of a run on disk: folders, `run.json`, and the labels of a record as JSON.

A record's entry holds all of its labels but the layout: stream, reduction, layers, heads, denoise,
names on the query and key axes, the codec with its bound. Axes: (call, denoise, layer, head, query,
key).

    folder = start_run(run, selection=selection, provenance={"seed": 0})
    for episode in episodes(run): ...
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import PathLike
from attn_jax.probe import arrays, codecs
from attn_jax.probe.commits import NAME as COMMITS
from attn_jax.probe.select import Selection, valid_positions

SCHEMA_VERSION = 1
RUN, META, EPISODES = "run.json", "meta.json", "episodes"
_ITEMS = {"layers": int, "heads": int, "denoise": int, "query_names": str, "key_names": str}
_LABELS = {
    **{"stream": str, "reduction": str, "complete_rows": bool, "codec": dict},
    **{"num_keys": int, "kept_keys": int, "layout": int},
    **dict.fromkeys(_ITEMS, list),
}
_CODEC = {"name", "bound", "bound_max_abs_error"}
MEASURED = "measured_max_abs_error"  # attribute of a codec; what it is bounded by stands beside it


def start_run(
    run: PathLike,
    *,
    selection: Selection | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Makes a run folder and its `run.json`; an existing `run.json` is kept.

    Args:
      run: folder.
      selection: what is captured.
      provenance: JSON-compatible facts: seed, versions, model and checkpoint, configuration.
    """
    folder = pathlib.Path(run)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RUN).exists():
        data = {
            "schema_version": SCHEMA_VERSION,
            "selection": None if selection is None else selection.to_json(),
            "provenance": dict(provenance or {}),
        }
        arrays.write_json(folder / RUN, data)
    return folder


def continue_run(
    run: PathLike,
    same: Sequence[str],
    *,
    if_known: Sequence[str] = (),
    selection: Selection | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Makes a run folder as `start_run` does, or checks that an existing one was made alike.

    Args:
      run: folder.
      same: keys of `provenance` that must be equal; the selection must be, too.
      if_known: further such keys, which runs of earlier versions may lack.
      selection: what is captured.
      provenance: as in `start_run`.

    Raises:
      ConfigError: the folder is of a run with another selection or with others of these facts.
    """
    path = pathlib.Path(run) / RUN
    if not path.is_file():
        return start_run(run, selection=selection, provenance=provenance)
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        facts = there.get("provenance") or {}
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"cannot be read as JSON: {error}", where=path) from error
    same = (*same, *(key for key in if_known if key in facts))
    wanted = {"selection": None if selection is None else selection.to_json()}
    found = {"selection": there.get("selection")}
    wanted |= {key: (provenance or {}).get(key) for key in same}
    found |= {key: facts.get(key) for key in same}
    for name, value in wanted.items():
        if found[name] != json.loads(json.dumps(value)):
            raise ConfigError(
                f"was made with another {name}: {found[name]}, now {value}",
                where=path,
                fix="Continue with the same settings, or name another folder",
            )
    return pathlib.Path(run)


def episode_folder(run: PathLike, episode: int) -> pathlib.Path:
    """Folder of one episode."""
    return pathlib.Path(run) / EPISODES / f"episode_{episode:05d}"


def episodes(path: PathLike) -> tuple[pathlib.Path, ...]:
    """Episode folders of a run in order, or `path` itself when it is an episode.

    Raises:
      RecordError: `path` is neither.
    """
    folder = pathlib.Path(path)
    if (folder / COMMITS).is_file() or (folder / META).is_file():
        return (folder,)
    found = [f for f in sorted(folder.glob(f"{EPISODES}/episode_*")) if f.is_dir()]
    if not found:
        raise RecordError(
            "no attention record here",
            where=folder,
            fix=f"Name a run folder, which has {EPISODES}/, or one of its episodes",
        )
    return tuple(found)


def new_meta(episode: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """`meta.json` of an episode before its first call."""
    return {
        "schema_version": SCHEMA_VERSION,
        "episode": episode,
        "complete": False,
        "arrays": {},
        "layouts": [],
        "info": dict(info),
    }


def read_meta(episode: pathlib.Path, *, begun: bool) -> dict[str, Any]:
    """Contents of `meta.json`, which is written before the first call is committed.

    Args:
      episode: folder of the episode.
      begun: whether a call is committed. If not, a program that was stopped before its first call
        left a commit log alone, which is an episode without calls.

    Raises:
      RecordError: the file is missing, malformed or of another version.
    """
    alone = (episode / COMMITS).is_file() and not (episode / META).exists()
    if alone and not begun:
        number = episode.name.rpartition("_")[2]
        return new_meta(int(number) if number.isdecimal() else 0, {})
    meta = arrays.read_json(episode / META)
    if meta.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(
            f"schema version {meta.get('schema_version')} is not {SCHEMA_VERSION}",
            where=episode / META,
        )
    for field, like in new_meta(0, {}).items():
        if type(meta.get(field)) is not type(like):
            raise RecordError(f"field {field!r} is missing or malformed", where=episode / META)
    for name, entry in meta["arrays"].items():
        if problem := _malformed(entry, len(meta["layouts"])):
            raise RecordError(
                f"label {problem!r} of record {name!r} is missing or malformed",
                where=episode / META,
            )
    return meta


def _malformed(entry: Any, num_layouts: int) -> str | None:
    """The first label that is not what `entry_of` writes."""
    if not isinstance(entry, dict):
        return "stream"
    for field, kind in _LABELS.items():
        value: Any = entry.get(field)
        good = type(value) is kind
        if field in _ITEMS:
            good = good and all(type(item) is _ITEMS[field] for item in value)
        if field == "codec":
            good = good and {*value} >= _CODEC and value["name"] in [*codecs.BOUNDS]
        if field == "layout":
            good = good and 0 <= value < num_layouts
        if not good:
            return field
    return None


def entry_of(record: AttentionRecord, encoded: codecs.Encoded) -> dict[str, Any]:
    """Labels and codec of a record as JSON; the layout is kept elsewhere, once per episode."""
    bound = codecs.BOUNDS[encoded.codec]
    return {
        "stream": record.stream,
        "reduction": record.reduction,
        "layers": [*record.layers],
        "heads": [*record.heads],
        "denoise": [*record.denoise],
        "query_names": [*record.query_names],
        "key_names": [*record.key_names],
        "complete_rows": record.complete_rows,
        "num_keys": encoded.num_keys,
        "kept_keys": encoded.data.shape[-1],
        "codec": {
            "name": encoded.codec,
            "bound": bound.formula,
            "bound_max_abs_error": bound.max_abs,
        },
    }


def compare(
    meta: Mapping[str, Any], first: Mapping[str, Any], where: pathlib.Path
) -> tuple[tuple[dict[str, Any], ...], dict[str, int]]:
    """Compares what a call has, as `meta.json` has it, with what the first call of an episode had.

    Returns:
      Layouts that the first call did not have, and record name -> which of them it has.

    Raises:
      RecordError: another record, another label, or other tokens on an axis without names.
    """
    new: list[dict[str, Any]] = []
    which: dict[str, int] = {}
    for name in sorted({*meta["arrays"], *first["arrays"]}):
        now, before = meta["arrays"].get(name), first["arrays"].get(name)
        if now is None or before is None:
            change = "was not in earlier calls" if before is None else "is missing in this call"
            raise RecordError(f"record {name!r} {change}", where=where)
        fields = [field for field in now if field != "layout" and now[field] != before[field]]
        if fields:
            raise RecordError(
                f"record {name!r} differs from that of earlier calls in {', '.join(fields)}",
                where=where,
                fix="Every call of an episode keeps the same selection",
            )
        layout, known = meta["layouts"][now["layout"]], first["layouts"][before["layout"]]
        if layout == known:
            continue
        axes = [
            axis
            for axis, names in (("queries", "query_names"), ("keys", "key_names"))
            if not now[names]
        ]
        moved = any(layout[field] != known[field] for field in ("length", *axes))
        if moved or now["kept_keys"] != now["num_keys"]:
            raise RecordError(
                f"tokens of record {name!r} differ from those of earlier calls",
                where=where,
                fix="Record tokens that stand at the same place in every prompt, and all keys",
            )
        if layout not in new:
            new.append(layout)
        which[name] = new.index(layout)
    return tuple(new), which


def open_record(
    folder: pathlib.Path, entry: Mapping[str, Any], layout: TokenLayout, num_calls: int
) -> AttentionRecord:
    """The record of a group on disk, with values that are read when they are sliced.

    Raises:
      RecordError: arrays that are missing or do not fit the labels.
    """
    values = arrays.open_array(folder / "values")
    if values.shape[0] < num_calls:
        raise RecordError(
            f"{num_calls} calls are committed, the array has {values.shape[0]}", where=folder
        )
    codec, num_keys = entry["codec"]["name"], entry["num_keys"]
    scale = arrays.open_array(folder / "scale") if codec == "u8row" else None
    index = None
    if entry["kept_keys"] != num_keys:
        index = arrays.read_vector(folder / "key_index")
        # Otherwise values would silently be put to other tokens.
        if tuple(index.tolist()) != valid_positions(layout, "key"):
            raise RecordError("key_index does not name the valid keys", where=folder)
    return AttentionRecord(
        stream=entry["stream"],
        values=arrays.LazyValues(
            values,
            scale,
            codec=codec,
            key_index=index,
            num_keys=num_keys,
            num_calls=num_calls,
        ),
        layout=layout,
        layers=tuple(entry["layers"]),
        heads=tuple(entry["heads"]),
        denoise=tuple(entry["denoise"]),
        reduction=entry["reduction"],
        query_names=tuple(entry["query_names"]),
        key_names=tuple(entry["key_names"]),
        complete_rows=entry["complete_rows"],
    )


def write_group(folder: pathlib.Path, entry: Mapping[str, Any]) -> None:
    """Writes labels as attributes of the group, and the codec also as one of `values`."""
    attributes = {key: value for key, value in entry.items() if key != "layout"}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    arrays.write_json(folder / arrays.METADATA, group)
    metadata = folder / "values" / arrays.METADATA
    if metadata.is_file():
        array = arrays.read_json(metadata)
        array["attributes"] = {"codec": entry["codec"]}
        arrays.write_json(metadata, array)
