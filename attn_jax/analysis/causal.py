"""Rows of hypotheses that need runs made on purpose: occlusions, questions, turned pictures.

Such a run is a variant beside the base, an ordinary run of the same episode whose `info` says what
was done:

- `intervention`: `set` (`high` or `control`), `camera`, `layer`, `fill`, `noise` (key of the run
  with the same noise and nothing hidden; empty for the base), `kind` (default `occlusion`).
- `vqa`: `question`, `answer` (a text, or one per call), and maybe `expected` and `object` (asked
  about).
- `rotation`: `degrees` (90, 180 or 270, counter-clockwise), `camera` (a name or a list of names);
  its pictures and masks are turned too.

Axis names: call, layer, o objects, gh gw patch grid.

    table = tables.concat(list(fidelity_rows(study, options)))
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from attn_jax.analysis import fidelity, overlap, shift, tables
from attn_jax.analysis.options import Options, actions_like, check_alike, joined_maps, maps_of
from attn_jax.analysis.studies import CameraMaps, Source, Study
from attn_jax.core.errors import MissingInputError, RecordError
from attn_jax.core.typing import Float, NumpyArray


def fidelity_rows(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H1: fidelity score of every camera, layer and fill, and the null floor.

    A call whose control could not be given the shape of the high set does not count, unless
    `options.keep_unmatched`; `matched_share` says how many do.

    Raises:
      MissingInputError: no occlusion runs, or runs without actions.
      RecordError: an `intervention` that lacks a field, a set without its partner or there twice,
        or actions of other calls or another shape.
    """
    runs = {k: v for k, v in study.variants.items() if "intervention" in v.episode.info}
    if not runs:
        raise MissingInputError(
            "no runs with hidden patches",
            where=study.name,
            fix="Write them to variants/ with `intervention` in their info (docs/analysis.md)",
        )
    base = actions_like(study.base, study.base)
    variance = study.units() ** 2
    cases: dict[tuple[str, int, str, str], dict[str, dict[str, Source]]] = {}
    for key, source in runs.items():
        facts = source.episode.info["intervention"]
        try:
            case = (str(facts["camera"]), int(facts["layer"]), str(facts["fill"]), source.kind)
            noise, which = str(facts.get("noise") or ""), str(facts["set"])
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"`intervention` lacks {error}", where=key) from error
        if cases.setdefault(case, {}).setdefault(noise, {}).setdefault(which, source) is not source:
            raise RecordError(
                f"a second {which} run of {case}, noise {noise or 'base'!r}", where=key
            )
    noises = sorted({noise for case in cases.values() for noise in case})
    clean = {noise: _clean(study, noise) for noise in noises}
    steps = np.asarray(study.base.episode.env_step)
    for (camera, layer, fill, kind), by_noise in sorted(cases.items()):
        for noise, pair in by_noise.items():
            if set(pair) != {"high", "control"}:
                raise RecordError(
                    f"camera {camera}, layer {layer}, fill {fill}: noise {noise or 'base'!r} has"
                    f" {sorted(pair)} instead of high and control",
                    where=study.name,
                )
        whole = np.stack([clean[noise] for noise in by_noise])
        high, control = (
            np.stack([actions_like(pair[which], study.base) for pair in by_noise.values()])
            for which in ("high", "control")
        )
        matched = np.stack([_matched(pair["control"], len(base)) for pair in by_noise.values()])
        # What was not said of a control is not held against it.
        used = np.ones(matched.shape, bool) if options.keep_unmatched else matched != 0
        errors = [fidelity.squared_error(whole, other, variance) for other in (high, control)]
        found = {
            "fidelity": fidelity.fidelity_score(whole, high, control, variance, used),
            "mse_high": fidelity.mean_over_seeds(errors[0], used),
            "mse_control": fidelity.mean_over_seeds(errors[1], used),
            "matched_share": matched.mean(0),
        }
        yield tables.tidy(
            np.stack(list(found.values())),
            {"metric": list(found), "env_step": steps},
            camera=camera,
            layer=layer,
            variant=fill,
            kind=kind,
        )
    others = [actions_like(source, study.base) for source in study.of_kind("noise").values()]
    floor = fidelity.null_floor(np.stack([base, *others]), variance)
    yield tables.tidy(floor, {"env_step": steps}, metric="null_floor", kind="noise")


def _matched(control: Source, calls: int) -> Float[NumpyArray, "call"]:
    """Of every call, 1 where the control has the shape of the high set, 0 where not, NaN unsaid."""
    said = control.episode.info["intervention"].get("matched")
    if said is None:
        return np.full(calls, np.nan)
    if not isinstance(said, list) or len(said) != calls:
        raise RecordError(f"`matched` is no list of {calls} calls", where=control.key)
    return np.array([bool(one) for one in said], np.float64)


def _clean(study: Study, noise: str) -> NumpyArray:
    if not noise:
        return actions_like(study.base, study.base)
    if noise not in study.variants:
        raise RecordError(f"no run {noise!r} with nothing hidden", where=study.name)
    return actions_like(study.variants[noise], study.base)


def answer_rows(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """H2.2: whether answers are right, and how much the question's text looks at its object.

    `correct` is NaN for a question without an expected answer or that was not answered at all, and
    there is one row `lift`, NaN, when no question could be set against a mask.

    Raises:
      MissingInputError: no runs with questions.
      RecordError: `vqa` that is no question and answer, or one about an object that the episode
        does not have.
    """
    runs = {k: v for k, v in study.variants.items() if "vqa" in v.episode.info}
    if not runs:
        raise MissingInputError(
            "no runs with questions",
            where=study.name,
            fix="Ask a checkpoint with a text head: launch.answer --run --questions",
        )
    looked = False
    for key, source in runs.items():
        facts = source.episode.info["vqa"]
        if not isinstance(facts, Mapping):
            raise RecordError(f"`vqa` is {facts!r}, no question and answer", where=key)
        labels = {"variant": key, "kind": "vqa"}
        yield tables.tidy(np.array(_share_right(facts)), {}, metric="correct", **labels)
        asked, known = facts.get("object"), source.episode.objects
        if asked is not None and known and asked not in known:
            raise RecordError(
                f"a question about {asked!r}, the episode has {', '.join(known)}",
                where=f"{study.name}, variant {key}",
                fix="Correct `object` of the question, or leave it out",
            )
        if source.reader is None or asked not in known:
            continue
        for stream, query in options.pairs():
            for camera in source.episode.masks:
                place = known.index(asked)
                maps = maps_of(source, stream, query, camera, options)
                mean = joined_maps(maps, options)
                coverage = source.coverage(camera, maps.grid, maps.target)[:, place : place + 1]
                lift = overlap.object_metrics(mean, coverage, names=("lift",))["lift"]
                looked = True
                yield tables.tidy(
                    lift,
                    {"env_step": maps.env_step, "layer": maps.layers, "object": [asked]},
                    metric="lift",
                    query=query,
                    camera=camera,
                    role=source.episode.roles.get(asked, "other"),
                    **labels,
                )
    if not looked:
        yield tables.tidy(np.array(np.nan), {}, metric="lift", kind="vqa")


def _share_right(facts: Mapping[str, Any]) -> float:
    """Share of the answers to a question that are the expected one; NaN where it is undefined."""
    said = facts.get("answer", "")
    given = said if isinstance(said, list) else [said]
    if facts.get("expected") is None or not given:
        return float("nan")
    expected = plain(str(facts["expected"]))
    return sum(plain(str(answer)) == expected for answer in given) / len(given)


def plain(text: str) -> str:
    """An answer for comparison: lower case, words and numbers only, no leading article."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)


def rotation_rows(study: Study, options: Options) -> Iterator[pd.DataFrame]:
    """Maps of turned pictures against the turned maps of the base.

    `overlap_drop` is the relative loss of mass on an object, `topk_iou` that of the two top 10 %
    sets, `centroid_shift_patches` the distance of their centres.

    Raises:
      MissingInputError: no turned runs.
      RecordError: an angle that is no quarter turn, no cameras, or maps that do not fit.
    """
    runs = {k: v for k, v in study.variants.items() if "rotation" in v.episode.info}
    if not runs:
        raise MissingInputError(
            "no runs with turned pictures",
            where=study.name,
            fix="Write them to variants/ with `rotation` in their info (docs/analysis.md)",
        )
    for key, source in runs.items():
        degrees, cameras = _rotation(source)
        for stream, query in options.pairs():
            for camera in cameras:
                labels = {"variant": key, "kind": "rotation", "query": query, "camera": camera}
                base = maps_of(study.base, stream, query, camera, options)
                other = maps_of(source, stream, query, camera, options)
                check_alike(other, base, key)
                moved = _turned_maps(base, other, degrees, options)
                axes = {"env_step": base.env_step, "layer": base.layers}
                yield tables.tidy(
                    np.stack(list(moved.values())), {"metric": list(moved), **axes}, **labels
                )
                if camera not in study.base.episode.masks or not study.base.episode.objects:
                    continue
                scores = [
                    overlap.object_metrics(
                        joined_maps(maps, options, like=base),
                        run.coverage(camera, maps.grid, maps.target),
                        names=("overlap", "concentration"),
                    )
                    for run, maps in ((study.base, base), (source, other))
                ]
                drops = {
                    f"{name}_drop": 1.0 - overlap.ratio(scores[1][name], scores[0][name])
                    for name in scores[0]
                }
                yield tables.tidy(
                    np.stack(list(drops.values())),
                    {"metric": list(drops), **axes, "object": study.base.episode.objects},
                    **labels,
                )


def _rotation(source: Source) -> tuple[int, list[str]]:
    """Degrees and cameras of a turned run."""
    facts = source.episode.info["rotation"]
    known = facts if isinstance(facts, Mapping) else {}
    degrees, named = known.get("degrees"), known.get("camera")
    cameras = [named] if isinstance(named, str) else named
    if not isinstance(degrees, int) or not isinstance(cameras, list) or not cameras:
        raise RecordError(
            f"`rotation` is {facts!r}",
            where=source.key,
            fix="It needs `degrees`, a whole number, and `camera`, a name or a list of names",
        )
    if degrees % 90:
        raise RecordError(f"a turn by {degrees} degrees", where=source.key, fix="Use quarter turns")
    return degrees, cameras


def _turned_maps(
    base: CameraMaps, other: CameraMaps, degrees: int, options: Options
) -> dict[str, NumpyArray]:
    """How far maps of turned pictures are from the turned maps, each (call, layer)."""
    turned = np.rot90(joined_maps(base, options), degrees // 90, (-2, -1))
    now = joined_maps(other, options, like=base)
    moved = shift.shift_metrics(turned, now, box=base.box, names=("centroid_shift_px",))
    high = [fidelity.top_patches(maps) for maps in (turned, now)]
    mass = turned.sum((-2, -1)) * now.sum((-2, -1))  # 0 or NaN: one of them has no top patches
    both, either = (high[0] & high[1]).sum((-2, -1)), (high[0] | high[1]).sum((-2, -1))
    side = base.box[2] / base.grid[0]
    return {
        "topk_iou": np.where(mass > 0, both / either, np.nan),
        "centroid_shift_patches": moved["centroid_shift_px"] / side,
    }
