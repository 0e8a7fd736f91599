"""Small recorded runs with planted attention, for tests of hypotheses and their launchers."""

import dataclasses

import numpy as np

from attn_jax.analysis import shift, studies
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.data.episodes import VARIANTS, Episode, episode_folder, read_episode, write_episode
from attn_jax.probe.store import RecordReader, RecordWriter

GRID = (4, 4)
BOX = (0, 0, 32, 32)
STEPS = (0, 5, 10)
HORIZON, DENOISE, LAYERS, HEADS = 3, (0, 1), (2, 5), (0, 1)
OBJECTS = ("red_cube", "ball")
LENGTH = 40
PREFIX = TokenLayout(
    LENGTH,
    (
        TokenGroup("image/front", tuple(range(16)), GRID, BOX),
        TokenGroup("image/wrist", tuple(range(16, 32)), GRID, BOX),
        TokenGroup("bos", (32,)),
        TokenGroup("text", (33, 34, 35, 36), labels=("find", "the", "red", "cube")),
        TokenGroup("state", (37, 38)),
        TokenGroup("pad", (39,), valid=False),
    ),
    aliases=(
        TokenGroup("text/word/find", (33,)),
        TokenGroup("text/word/the", (34,)),
        TokenGroup("text/word/red", (35,)),
        TokenGroup("text/word/cube", (36,)),
    ),
)
ACTIONS = tuple(range(LENGTH, LENGTH + HORIZON))
SUFFIX = TokenLayout(
    LENGTH + HORIZON,
    (*PREFIX.groups, TokenGroup("action", ACTIONS)),
    PREFIX.aliases,
    queries=ACTIONS,
)


def masks():
    """(3, 2, 32, 32): the cube is patch (1, 1) on both cameras, the ball patches (3, 2), (3, 3)."""
    out = np.zeros((len(STEPS), 2, 32, 32), bool)
    out[:, 0, 8:16, 8:16] = True
    out[:, 1, 24:, 16:] = True
    return out


def camera_map(share, rng):
    """A map whose mass is 1, `share` of it on the cube's patch."""
    weights = rng.uniform(0.9, 1.1, 16)
    weights[5] = 0
    weights *= (1 - share) / weights.sum()
    weights[5] = share
    return weights


def row(keys, share, rng, *, vision=0.5):
    """A row over all keys: `vision` on the two cameras, the rest on prompt (and actions)."""
    out = np.zeros(keys)
    out[:16] = camera_map(share, rng) * vision / 2
    out[16:32] = camera_map(share, rng) * vision / 2
    rest = [*range(32, 39), *range(LENGTH, keys)]
    out[rest] = (1 - vision) / len(rest)
    return out


def records(share, rng, *, drift=0.0, denoise=DENOISE, denoise_drift=0.0, layers=LAYERS):
    """One call: prefix and suffix; actions look `drift` more at the cube with every action.

    With every denoising step, kept or not, they look `denoise_drift` more.
    """
    prefix = np.empty((1, 1, 2, 2, LENGTH, LENGTH), np.float32)
    suffix = np.empty((1, len(denoise), 2, 2, HORIZON, LENGTH + HORIZON), np.float32)
    for place in np.ndindex(2, 2):
        for query in range(LENGTH):
            prefix[(0, 0, *place, query)] = row(LENGTH, share, rng)
        for number, step in enumerate(denoise):
            for action in range(HORIZON):
                here = share + drift * action + denoise_drift * step
                suffix[(0, number, *place, action)] = row(LENGTH + HORIZON, here, rng)
    return {
        "prefix": AttentionRecord("prefix", prefix, PREFIX, layers, HEADS),
        "suffix": AttentionRecord("suffix", suffix, SUFFIX, layers, HEADS, denoise=denoise),
    }


def part(record, **groups):
    """What a capture with only these `queries` or `keys` keeps."""
    layout = record.layout.restrict(**groups)
    rows, columns = (
        np.searchsorted(record.layout.axis_tokens(axis), layout.axis_tokens(axis))
        for axis in ("query", "key")
    )
    values = np.asarray(record.values)[..., rows[:, None], columns]
    return dataclasses.replace(record, values=values, layout=layout, complete_rows=False)


def reduced(made):
    """The same call as `patch_map` and `group_mass`, as a selection would have kept it."""
    out = {}
    for name, record in made.items():
        layout = record.layout
        groups = [g for g in layout.groups if g.valid and g.indices]
        groups += [a for a in layout.aliases]
        rows = {int(t): i for i, t in enumerate(layout.axis_tokens("query"))}
        kept = [g for g in groups if set(g.indices) <= set(rows)]
        images = layout.restrict(keys="image/*")
        maps = np.stack(
            [record.values[..., [rows[i] for i in g.indices], :].mean(-2) for g in kept], axis=-2
        )[..., list(images.axis_tokens("key"))]
        labels = {"layers": record.layers, "heads": record.heads, "denoise": record.denoise}
        out[f"{name}.patch_map"] = AttentionRecord(
            name,
            maps,
            images,
            **labels,
            reduction="patch_map",
            query_names=tuple(g.name for g in kept),
            complete_rows=False,
        )
        masses = np.stack(
            [record.values[..., list(g.indices)].sum(-1) for g in layout.groups], axis=-1
        )
        out[f"{name}.group_mass"] = AttentionRecord(
            name, masses, layout, **labels, reduction="group_mass", key_names=layout.names
        )
    return out


def write_run(
    run,
    number=0,
    *,
    success=True,
    share=0.4,
    drift=0.0,
    denoise=DENOISE,
    denoise_drift=0.0,
    layers=LAYERS,
    extra=None,
    seed=0,
    info=None,
    actions=None,
    only_reduced=False,
    objects=OBJECTS,
    attention=True,
    seen=masks,
    picture=(32, 32),
    steps=STEPS,
    calibration=None,
):
    """Writes one episode of a run; returns its folder."""
    rng = np.random.default_rng([seed, number])
    if attention:
        with RecordWriter(run, number, codec="float32") as writer:
            for step in steps:
                made = records(
                    share,
                    rng,
                    drift=drift,
                    denoise=denoise,
                    denoise_drift=denoise_drift,
                    layers=layers,
                )
                made |= extra(made) if extra else {}
                writer.append(reduced(made) if only_reduced else made, env_step=step)
    images = rng.integers(0, 255, (len(STEPS), *picture, 3), dtype=np.uint8)
    if actions is None:
        actions = rng.normal(size=(len(STEPS), HORIZON, 4))
    episode = Episode(
        info={"prompt": "find the red cube", "success": success} | (info or {}),
        env_step=np.array(steps),
        images={"front": images, "wrist": images},
        objects=objects,
        roles=dict(zip(objects, ("target", "distractor"), strict=True)) if objects else {},
        masks={"front": seen(), "wrist": seen()} if objects else {},
        state=np.zeros((len(STEPS), 2), np.float32),
        actions=np.asarray(actions, np.float32),
        calibration=calibration or {},
    )
    folder = episode_folder(run, number)
    write_episode(folder, episode)
    return folder


def write_variants(run, number=0, *, success=True, seed=0):
    """Other noise, a paraphrase and two other prompts, which move attention off the cube."""
    cases = {
        "noise_1": ("none", 0.4),
        "please": ("style", 0.38),
        "ball": ("object_swap", 0.1),
        "empty": ("empty", 0.2),
    }
    for place, (key, (method, share)) in enumerate(cases.items()):
        write_run(
            run / VARIANTS / key,
            number,
            success=success,
            share=share,
            seed=seed + 100 + place,
            info={"variant": key, "method": method, "prompt": key},
        )


def source(folder, key=""):
    recorded = (folder / "commits.jsonl").is_file()
    return studies.Source(read_episode(folder), RecordReader(folder) if recorded else None, key)


def study_of(run, name="episode_00000"):
    """The study of one episode, in units of the actions of all episodes of the run."""
    variants = {
        folder.name: source(folder / "episodes" / name, folder.name)
        for folder in sorted((run / "variants").glob("*"))
    }
    actions = [read_episode(folder).actions for folder in sorted((run / "episodes").iterdir())]
    std = shift.action_std(actions)
    return studies.Study(name, source(run / "episodes" / name), variants, std)


def value(table, **labels):
    """Mean of the rows with these labels."""
    for column, label in labels.items():
        table = table[table[column] == label]
    assert len(table), labels
    return float(table.value.mean())
