"""A policy over recorded episodes, once: every prediction and map that analyses need, on disk.

    python -m launch.evaluate --checkpoint=DIR --episodes=ROOT --workdir=RUN --capture=SELECTION
        [--prompts=prompts.yaml] [--noise_seeds=2] [--batch=4] [--seed=0]
        [--recorded_cameras=left,wrist] [--rename=left:base,wrist:wrist] [--masks=auto]
        [--occlude=last] [--rotate=90,180,270] [--relevance]

RUN receives `episodes/episode_00000/` (attention record, `observations.*` with the predicted
actions, `recorded_actions.npy` where the recording has actions; with --relevance the record holds
gradient times attention of every edge, `Policy.explain`, too), and the same below
`variants/<key>/` for every counterfactual prompt, `variants/noise_<k>/` for other noise,
`variants/occlude_.../` for hidden patches (actions only) and `variants/rotate_<degrees>/` for
turned pictures (`launch.episode_variants`). Frames, state tokens and noise are the same for all
prompts. There is one inference per frame and variant; a variant of an episode that is whole is not
run again. Episodes that fail are named, the others are run, and the exit code is 2.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags, logging

from attn_jax.bridge.image_resize import content_box
from attn_jax.core import files
from attn_jax.core.errors import ConfigError, EpisodeError, InputError
from attn_jax.core.typing import NumpyArray
from attn_jax.data import episodes
from attn_jax.data.droid import DroidOptions
from attn_jax.data.droid_masks import SOURCES
from attn_jax.data.episodes import RECORDED, Episode, episode_folder, write_episode
from attn_jax.data.prompts import Prompt, read_prompts
from attn_jax.policies.observations import Description, describe, prepare
from attn_jax.policies.policy import Policy, with_weights
from attn_jax.probe.schema import continue_run
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordWriter
from attn_jax.train.progress import ProgressBar
from launch import app, compile_cache, episode_variants, variant_flags
from launch.episode_occlusion import BaseMaps, Hidden, hidden_patches
from launch.episode_sources import EpisodeSource, matched_cameras, open_source, with_cameras
from launch.episode_variants import BASE, Occlusion, Variant, make_variants, turned
from launch.pace import Pace

PROMPTS = app.define_prompts()
NOISE_SEEDS = app.define_noise_seeds()
BATCH = flags.DEFINE_integer("batch", 4, "Frames predicted together.", lower_bound=1)
RENAME = flags.DEFINE_list("rename", [], "Camera of the recording:camera of the checkpoint, ...")
RECORDED_CAMERAS = flags.DEFINE_list(
    "recorded_cameras", [], "Cameras to take; default all, of DROID-style recordings left,wrist."
)
RELEVANCE = app.define_relevance()
MASKS = flags.DEFINE_enum("masks", "auto", SOURCES, "Object masks of DROID-style recordings.")
KEYFRAME_STEP = flags.DEFINE_integer(
    "keyframe_step", 8, "Distance of keyframes of DROID-style recordings.", lower_bound=1
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
      run: run folder.
      prompts: counterfactual prompts.
      noise_seeds: variants with other noise.
      batch: frames predicted together.
      seed: of the noise.
      cameras: those of the recording that the source was told to take; empty for all.
      rename: camera of the recording -> camera of the checkpoint; others keep their names.
      reading: how else the source was told to read, JSON-compatible; defaults are left out.
      relevance: record gradient times attention of the base too, see `Policy.explain`.
      occlusion: patches that are hidden in variants; None hides nothing.
      rotate: degrees (90, 180, 270) by which pictures are turned in variants.
      provenance: JSON-compatible facts for `run.json`.
      progress: show a progress bar; None on a terminal only.
    """

    run: pathlib.Path
    prompts: Sequence[Prompt] = ()
    noise_seeds: int = 0
    batch: int = 4
    seed: int = 0
    cameras: Sequence[str] = ()
    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reading: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    relevance: bool = False
    occlusion: Occlusion | None = None
    rotate: Sequence[int] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    progress: bool | None = None


def from_flags(root: str, checkpoint: str, tokenizer: str | None, seed: int) -> dict[str, Any]:
    """Runs what the flags ask for; returns what --json prints."""
    if not app.WORKDIR.value:
        raise ConfigError("--episodes needs --workdir", fix="Name a folder for the run")
    capture = app.define_capture().value
    selection = Selection.parse(capture) if capture else None
    droid = DroidOptions(keyframe_step=KEYFRAME_STEP.value, masks=MASKS.value)
    prompts = read_prompts(PROMPTS.value) if PROMPTS.value else ()
    source = open_source(root, droid, cameras=RECORDED_CAMERAS.value)
    description = describe(checkpoint, tokenizer=tokenizer)
    num_layers, rename = description.config.architecture.depth, parse_rename(RENAME.value)
    # Everything that can be wrong without the weights is found before they are read.
    cameras = check_fits(description, source.first(), rename)
    settings = Settings(
        run=pathlib.Path(app.WORKDIR.value),
        prompts=prompts,
        noise_seeds=NOISE_SEEDS.value or 0,
        batch=BATCH.value,
        seed=seed,
        cameras=RECORDED_CAMERAS.value,
        rename=rename,
        reading={f.name: f.value for f in (MASKS, KEYFRAME_STEP) if f.value != f.default},
        relevance=RELEVANCE.value,
        occlusion=variant_flags.occlusion_from_flags(cameras, num_layers),
        rotate=variant_flags.rotate_from_flags(),
        provenance={
            **description.provenance(),
            "source": source.kind,
            **app.provenance(seed),
        },
    )
    compile_cache.enable()
    check_recordings(settings.run, source)
    prepare_run(settings, selection, num_layers)
    policy = with_weights(description, capture=selection)
    return evaluate_episodes(policy, source, settings)


def parse_rename(words: Sequence[str]) -> dict[str, str]:
    """`left:base,wrist:wrist` as a dict; raises `ConfigError`."""
    pairs = [word.split(":") for word in words]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ConfigError(f"--rename={','.join(words)} is no list such as left:base,wrist:wrist")
    rename = {old: new for old, new in pairs}
    if len(rename) < len(pairs):
        raise ConfigError(f"--rename={','.join(words)} gives a camera two names")
    return rename


def check_fits(
    description: Description, episode: Episode, rename: Mapping[str, str]
) -> tuple[str, ...]:
    """Makes the model's input of one call, for which no weights are needed.

    Args:
      description: of the checkpoint.
      episode: as it was recorded.
      rename: camera of the recording -> camera of the checkpoint; others keep their names.

    Returns:
      The cameras of the episode as the checkpoint calls them.

    Raises:
      ConfigError: the cameras, the state or the prompt do not fit the checkpoint.
    """
    keys = description.image_keys
    cameras = matched_cameras(episode.cameras, tuple(keys), rename)
    try:
        prepare(description, _observation(with_cameras(episode, cameras), [0], keys))
    except InputError as error:
        raise ConfigError(
            f"the recorded episodes do not fit the checkpoint: {error}",
            where="--episodes",
            fix="Name recordings of the robot that the policy was trained for",
        ) from error
    return tuple(cameras.values())


def variants_of(settings: Settings) -> tuple[Variant, ...]:
    """The base, other noise, other prompts, hidden patches, turned pictures."""
    return make_variants(
        settings.prompts, settings.noise_seeds, settings.occlusion, settings.rotate
    )


def prepare_run(settings: Settings, base: Selection | None, num_layers: int) -> None:
    """Makes the run folders.

    Args:
      settings: how to run.
      base: what is captured in the base.
      num_layers: of the action expert.

    Raises:
      ConfigError: a folder of a run with other settings, or a capture that lacks what variants
        need.
    """
    variants = variants_of(settings)
    episode_variants.check_capture(variants, base, num_layers)
    for variant in variants:
        folder, selection = variant.folder(settings.run), variant.selection(base)
        mine = {
            "seed": settings.seed + variant.noise,
            "rename": dict(settings.rename),
            # Runs of earlier versions took all of them and do not say so.
            **({"cameras": [*settings.cameras]} if settings.cameras else {}),
            **settings.reading,
            **({"relevance": True} if settings.relevance and variant.key == BASE else {}),
            **variant.settings(),
        }
        provenance = {**settings.provenance, "recorded_episodes": mine}
        continue_run(
            folder,
            ("recorded_episodes", "checkpoint"),
            if_known=("checkpoint_fingerprint",),
            selection=selection,
            provenance=provenance,
        )


def check_recordings(run: pathlib.Path, source: EpisodeSource) -> None:
    """Checks that what is finished was made from the same recordings in the same places.

    Args:
      run: run folder; may be absent.
      source: of the recordings now.

    Raises:
      ConfigError: an episode of the run is of another recording than the source has in its place.
      EpisodeError: an episode of the run or of the source is damaged.
    """
    for number, name in enumerate(source.names):
        if not is_finished(run, number):
            continue
        folder = episode_folder(run, number)
        info = episodes.read_meta(folder)["info"]
        was, checksum = info.get("episode", name), info.get("checksum", "")
        now = source.checksum(number)
        # Runs of earlier versions have no checksums.
        if was != name or (checksum and now and checksum != now):
            raise ConfigError(
                f"was made from the recording {was}, in whose place is "
                f"{name if was != name else 'another one of this name'} now",
                where=folder,
                fix="Name another --workdir, or the recordings that the run began with",
            )


def evaluate_episodes(policy: Policy, source: EpisodeSource, settings: Settings) -> dict[str, Any]:
    """Runs every variant of every episode that is not finished yet.

    Returns:
      `episodes`, `variants`, `inferences` (frames predicted now) and `skipped` (variants of
      episodes that were finished).

    Raises:
      EpisodeError: episodes failed; all others were run before.
      ConfigError: the run folder belongs to other settings or recordings.
    """
    check_recordings(settings.run, source)
    prepare_run(settings, policy.selection, policy.config.architecture.depth)
    variants = variants_of(settings)
    # The episode is read only where there is something to do.
    waiting = {
        number: left
        for number in range(len(source.names))
        if (left := [v for v in variants if not is_finished(v.folder(settings.run), number)])
    }
    failed: dict[str, str] = {}
    inferences = 0
    pace = Pace(len(waiting))
    with ProgressBar(len(waiting), enabled=settings.progress) as bar:
        for number, left in waiting.items():
            name = source.names[number]
            ending = "finished"
            try:
                episode = source.read(number)
                maps = BaseMaps(episode_folder(settings.run, number), episode)
                for variant in left:
                    if not variant.suits(episode):
                        logging.warning("episode %s has no %s", name, variant.key)
                        continue
                    run_variant(policy, episode, number, source, variant, settings, maps)
                    inferences += episode.num_calls
            except InputError as error:
                failed[name] = str(error)
                ending = f"failed: {error}"
            level = logging.ERROR if name in failed else logging.INFO
            logging.log(level, "episode %s %s; %s", name, ending, pace.done())
            bar.update(step=pace.count, values={"failed": float(len(failed))})
    if failed:
        name, message = next(iter(failed.items()))
        raise EpisodeError(
            f"{len(failed)} of {len(source.names)} episodes failed "
            f"({', '.join(failed)}); the first: {name}: {message}",
            fix="Repair them and start again: what is finished is not run again",
        )
    return {
        "episodes": len(source.names),
        "variants": [variant.key for variant in variants],
        "inferences": inferences,
        "skipped": len(variants) * len(source.names) - sum(map(len, waiting.values())),
    }


def is_finished(run: pathlib.Path, number: int) -> bool:
    """Whether an episode of a run was recorded to its end; its observations are written last."""
    return (episode_folder(run, number) / episodes.META).is_file()


def run_variant(
    policy: Policy,
    episode: Episode,
    number: int,
    source: EpisodeSource,
    variant: Variant,
    settings: Settings,
    maps: BaseMaps,
) -> None:
    """Predicts at every call of an episode and writes what comes.

    Args:
      policy: captures what it captures in the base.
      episode: as it was recorded.
      number: of the episode.
      source: that it was read from.
      variant: what to run; the base comes first.
      settings: how to run.
      maps: of the base run of the episode.

    Raises:
      InputError: the episode does not fit the policy; the variant stays unfinished.
    """
    run = variant.folder(settings.run)
    folder = episode_folder(run, number)
    if folder.exists():
        shutil.rmtree(folder)  # of an attempt that was cut off
    keys = policy.description.image_keys
    cameras = matched_cameras(episode.cameras, tuple(keys), settings.rename)
    made = turned(with_cameras(episode, cameras), variant.degrees)
    info = {**made.info, **variant.facts(episode), **policy.denoising}
    info |= {"episode": source.names[number], "checksum": source.checksum(number)}
    made = dataclasses.replace(made, info=info)
    if variant.degrees:
        info["rotation"] = {"degrees": variant.degrees, "camera": [*made.images]}
    hidden = None
    if variant.hiding is not None:
        hidden = _hidden(policy, made, number, variant.hiding, settings, maps)
        info["intervention"] |= hidden.facts()
    writer, selection = None, variant.selection(policy.selection)
    explains = settings.relevance and variant.key == BASE
    if selection is not None:
        writer = RecordWriter(run, number, codec=selection.dtype, info=info)
    elif explains:
        writer = RecordWriter(run, number, info=info)
    actions: list[NumpyArray] = []
    try:
        for start in range(0, episode.num_calls, settings.batch):
            calls = range(start, min(start + settings.batch, episode.num_calls))
            wanted = [c for c in calls if (explains if selection is None else selection.wants(c))]
            # A short batch is filled with its first frame, so that one program serves all.
            rows = [*calls, *([calls[0]] * (settings.batch - len(calls)))]
            seed = settings.seed + variant.noise
            noise = np.stack([policy.episode_noise(seed, number, call) for call in rows])
            prepared = prepare(policy.description, _observation(made, rows, keys))
            removed = None
            if hidden is not None:
                prepared, removed = hidden.applied(prepared, rows), hidden.removed(prepared, rows)
            prediction = policy.run(prepared, noise=noise, capture=bool(wanted), removed=removed)
            actions += [prediction.actions[item] for item in range(len(calls))]
            if writer is None or not wanted:
                continue
            explained = policy.explain(prepared, noise) if explains else None
            for call in wanted:
                found = (prediction.records, explained)
                record = {k: r for one in found if one for k, r in one[call - start].items()}
                writer.append(record, env_step=int(episode.env_step[call]))
        if writer is not None:
            writer.close()
    finally:
        if writer is not None:
            writer.abort()
    if variant.key == BASE and episode.actions is not None:
        _save_recorded(folder, episode.actions)
    own = variant.key == BASE or variant.degrees  # pictures of its own
    write_episode(
        folder,
        dataclasses.replace(made, info=info, actions=np.stack(actions)),
        frames_of=None if own else episode_folder(settings.run, number),
    )


def _hidden(
    policy: Policy,
    episode: Episode,
    number: int,
    hiding: episode_variants.Hiding,
    settings: Settings,
    maps: BaseMaps,
) -> Hidden:
    """The patches to hide in an episode with the checkpoint's names of cameras."""
    if hiding.camera not in episode.images:
        raise EpisodeError(
            f"no camera {hiding.camera!r} to hide patches of",
            where="--occlude_cameras",
            fix=f"The episode has {', '.join(episode.images)}",
        )
    side = policy.config.architecture.image_size
    height, width = episode.images[hiding.camera].shape[1:3]
    box = content_box((height, width), (side, side))
    return hidden_patches(maps, hiding, box, seed=settings.seed, number=number)


def _observation(episode: Episode, rows: Sequence[int], keys: Mapping[str, str]) -> dict[str, Any]:
    """Calls of an episode as an observation; `keys` are LeRobot's of the checkpoint's cameras."""
    return {
        **{keys[camera]: pictures[rows] for camera, pictures in episode.images.items()},
        "observation.state": episode.state[rows],
        "task": [episode.prompt] * len(rows),
    }


def _save_recorded(folder: pathlib.Path, actions: NumpyArray) -> None:
    """What the recording did at the same calls, to compare the predictions with."""
    with files.disk_errors(folder, what="an episode"):
        folder.mkdir(parents=True, exist_ok=True)
    files.write_file(
        folder / RECORDED,
        lambda file: np.save(file, actions, allow_pickle=False),
        what="an episode",
    )
