"""A checkpoint that is ready to act: observations in, action chunks and labelled attention out.

What nothing looks at (dummy cameras, padding) never enters the compiled program; captured maps come
back in the full layout. Token groups are arguments of the program, so it is compiled once per batch
size, set of cameras and length of the prompt (in steps of `bucket` tokens).

Axis names: b batch, s denoising steps, H action horizon, a action dimensions of the robot, A action
dimensions inside the model.

    policy = load_policy("checkpoint", capture=Selection.parse("layers=last:2;reduce=patch_map"))
    prediction = policy.predict(observation, rng=jax.random.key(0))
    prediction.actions                                  # (b, H, a)
    prediction.records[0]["suffix.patch_map"]           # AttentionRecord of the first sample
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from attn_jax.core.errors import ConfigError, InputError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.core.typing import Bool, Float, NumpyArray, PathLike
from attn_jax.flow.sampler import euler_times
from attn_jax.models.pi05.compact import Kept, compact
from attn_jax.models.pi05.sample import sample
from attn_jax.policies.observations import Description, Prepared, describe, layouts_of, prepare
from attn_jax.probe.capture import capture_grouped, discover, to_records
from attn_jax.probe.edits import Edits, intervened
from attn_jax.probe.groups import expand, require_same_structure, stream_groups, structure
from attn_jax.probe.intervene import RemoveKeys, resolve_edits
from attn_jax.probe.relevance import relevance, relevance_records
from attn_jax.probe.select import Plan, Selection, Stream, resolve

BUCKET = 16  # prompt tokens; state digits make prompts a few tokens longer or shorter
_REMOVED = "removed"
_EVERYTHING = Selection.parse("layers=all;reduce=full")


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What one call of the policy gives, on the host.

    Attributes:
      actions: (b, H, a) float32 in units of the robot; the chunk where the checkpoint has no
        post-processor.
      chunk: (b, H, a) float32, as the model gives them (normalised).
      x_t: (s, b, H, A) noisy actions at each time.
      v_t: (s, b, H, A) velocities at these.
      time: (s,) float32.
      prefix_valid: (b, p) bool, False for dummy cameras and padding.
      records: of every sample, record name -> record of one call; None without a selection.
    """

    actions: NumpyArray
    chunk: NumpyArray
    x_t: NumpyArray
    v_t: NumpyArray
    time: NumpyArray
    prefix_valid: NumpyArray
    records: list[dict[str, AttentionRecord]] | None


class Policy:
    """A checkpoint with its weights and compiled programs.

    Attributes:
      description: what the checkpoint says.
      selection: what is captured by default; None captures nothing.
      bucket: prompts are padded to a multiple of so many tokens.
    """

    def __init__(
        self,
        description: Description,
        params: dict[str, Any],
        *,
        selection: Selection | None = None,
        bucket: int = BUCKET,
    ):
        """Takes over `params`, whose leaves become device arrays in place.

        Raises:
          ConfigError: a selection that prompts of different lengths cannot have.
        """
        if selection is not None and selection.valid_keys_only:
            raise ConfigError(
                "valid_keys_only cannot be kept: which keys are valid changes with every prompt",
                where="capture selection",
                fix="Leave it out; zeros take next to no room on disk",
            )
        self.description, self.selection, self.bucket = description, selection, bucket
        self._params = _onto_device(params)
        self._programs: dict[Hashable, Callable[..., Any]] = {}
        self._streams: dict[str, Stream] | None = None

    @property
    def config(self):
        """The model."""
        return self.description.config

    @property
    def denoising(self) -> dict[str, Any]:
        """What the info of a recorded episode says about the denoising passes."""
        return denoising_facts(euler_times(self.config.num_inference_steps))

    @property
    def num_programs(self) -> int:
        """Programs compiled so far."""
        return sum(program._cache_size() for program in self._programs.values())  # pyright: ignore[reportFunctionMemberAccess]

    def noise(self, rng: Any, batch: int) -> NumpyArray:
        """Standard normal noise of a prediction, (b, H, A) float32, from a JAX key."""
        shape = (batch, self.config.chunk_size, self.config.max_action_dim)
        return np.asarray(jax.random.normal(rng, shape), np.float32)

    def episode_noise(self, seed: int, episode: int, call: int) -> NumpyArray:
        """Noise of one call of one episode, (H, A) float32.

        It depends on nothing else, so that an episode is the same alone and in a batch.
        """
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), episode), call)
        return self.noise(key, 1)[0]

    def predict(
        self,
        observation: Mapping[str, Any],
        noise: NumpyArray | None = None,
        rng: Any = None,
        *,
        capture: bool = True,
        num_steps: int | None = None,
    ) -> Prediction:
        """Predicts the action chunks of b observations.

        Args:
          observation: see `attn_jax.policies.observations`.
          noise: (b, H, A) float32, standard normal; None draws it with `rng`.
          rng: a JAX key; None is key 0.
          capture: False captures nothing this time (`every_n` of a selection).
          num_steps: denoising steps, without capture; None is what the checkpoint says. Another
            number is another program.

        Raises:
          InputError: an observation or noise that does not fit.
          ConfigError: a number of steps that cannot be, or one to capture.
          LayoutError: samples whose attention cannot be captured by one program.
        """
        self._check_steps(num_steps, captured=capture and self.selection is not None)
        prepared = prepare(self.description, observation)
        return self.run(prepared, noise=noise, rng=rng, capture=capture, num_steps=num_steps)

    def run(
        self,
        prepared: Prepared,
        *,
        noise: NumpyArray | None = None,
        rng: Any = None,
        capture: bool = True,
        num_steps: int | None = None,
        removed: Bool[NumpyArray, "b p"] | None = None,
    ) -> Prediction:
        """As `predict`, from inputs that are prepared already.

        Args:
          prepared: of `prepare`.
          noise: as in `predict`.
          rng: as in `predict`.
          capture: as in `predict`.
          num_steps: as in `predict`.
          removed: tokens of the prefix that nobody may look at, in any layer of the language model
            and of the action expert; positions of the others stay. Nothing is captured then.

        Raises:
          InputError: noise that does not fit, or a sample that removes nothing.
          ConfigError: as in `predict`.
        """
        watched = removed is not None or (capture and self.selection is not None)
        self._check_steps(num_steps, captured=watched)
        batch = len(prepared.inputs.tokens)
        if noise is None:
            noise = self.noise(jax.random.key(0) if rng is None else rng, batch)
        self._check_noise(noise, batch)
        small, kept = compact(self.config, prepared.inputs, multiple=self.bucket)
        records = None
        if removed is not None:
            edits = self._removal(removed[:, kept.places], small, noise)
            result = self._without_keys(edits, self._params, small, noise)
        elif self.selection is not None and capture:
            plans = self._plans(prepared, kept, small, noise)
            program = self._program(plans[0])
            result, maps = program(stream_groups(plans), self._params, small, noise)
            records = to_records(expand(maps, plans), plans)
        else:
            result = self._program(None, num_steps)(self._params, small, noise)
        chunk = np.asarray(result.actions)[..., : self.config.action_dim]
        processors = self.description.processors
        actions = chunk if processors is None else processors.after(chunk, prepared.values)
        return Prediction(
            actions=np.asarray(actions, np.float32),
            chunk=chunk,
            x_t=np.asarray(result.x_t),
            v_t=np.asarray(result.v_t),
            time=np.asarray(result.time),
            prefix_valid=kept.valid,
            records=records,
        )

    def explain(
        self, prepared: Prepared, noise: Float[NumpyArray, "b H A"]
    ) -> list[dict[str, AttentionRecord]]:
        """What moved the chunk of every sample the way it went: gradient times attention.

        Explained is half the squared length of the chunk in the model's units, over the dimensions
        of the robot: its gradient is the chunk itself.

        Args:
          prepared: of `prepare`.
          noise: float32, standard normal, as in `predict`.

        Returns:
          Of every sample `prefix.relevance` and `suffix.relevance` (`probe.relevance`), with all
          layers, heads, denoising steps and tokens, padding included. Device memory is that of all
          these maps in float32, twice.

        Raises:
          InputError: noise that does not fit.
        """
        self._check_noise(noise, len(prepared.inputs.tokens))
        items = [layouts_of(self.config, prepared, i) for i in range(len(noise))]
        streams = self._discovered(items[0], prepared.inputs, noise)
        plans = [
            resolve(
                _EVERYTHING,
                {name: dataclasses.replace(streams[name], layout=made[name]) for name in made},
            )
            for made in items
        ]
        if _EVERYTHING not in self._programs:

            def objective(result: Any) -> Any:
                return 0.5 * (result.actions[..., : self.config.action_dim] ** 2).sum((1, 2))

            watched = functools.partial(sample, self.config, watch=True)
            # Which token is what differs between samples, and does not matter to whole maps.
            self._programs[_EVERYTHING] = jax.jit(relevance(watched, plans[0], objective))
        _, maps = self._programs[_EVERYTHING](self._params, prepared.inputs, noise)
        maps = jax.device_get(maps)
        return [
            relevance_records(
                {
                    stream: {name: each[item : item + 1] for name, each in found.items()}
                    for stream, found in maps.items()
                },
                plan,
            )[0]
            for item, plan in enumerate(plans)
        ]

    def _check_noise(self, noise: NumpyArray, batch: int) -> None:
        expected = (batch, self.config.chunk_size, self.config.max_action_dim)
        if noise.shape != expected:
            raise InputError(f"has shape {noise.shape}, expected {expected}", where="noise")

    def _check_steps(self, num_steps: int | None, *, captured: bool) -> None:
        if num_steps is None or num_steps == self.config.num_inference_steps:
            return
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise ConfigError(f"must be a positive integer, got {num_steps!r}", where="num_steps")
        if captured:
            raise ConfigError(
                f"attention is captured of {self.config.num_inference_steps} denoising steps, not "
                f"of {num_steps}",
                where="num_steps",
                fix="Predict with capture=False, or change the checkpoint's number of steps",
            )

    def _removal(self, removed: Bool[NumpyArray, "b k"], small: Any, noise: Any) -> Edits:
        """Removal of the tokens of every sample, for the prefix that the program has."""
        if not removed.any(axis=1).all():
            raise InputError(
                f"sample {int(removed.any(axis=1).argmin())} removes no token that can be seen",
                where="removed",
                fix="Run such samples without it",
            )

        def layouts_without(hidden: NumpyArray) -> dict[str, TokenLayout]:
            groups = TokenGroup(_REMOVED, tuple(np.flatnonzero(hidden).tolist())), *_rest(~hidden)
            length = len(hidden)
            actions = TokenGroup("action", tuple(range(length, length + noise.shape[1])))
            return {
                "prefix": TokenLayout(length, groups),
                "suffix": TokenLayout(
                    length + noise.shape[1], (*groups, actions), queries=actions.indices
                ),
            }

        items = [layouts_without(row) for row in removed]
        streams = self._discovered(items[0], small, noise)
        samples = [
            {name: dataclasses.replace(streams[name], layout=made[name]) for name in made}
            for made in items
        ]
        return resolve_edits([RemoveKeys(_REMOVED)], samples, cover="all")[0]

    @functools.cached_property
    def _without_keys(self) -> Callable[..., Any]:
        return jax.jit(intervened(lambda p, i, n: sample(self.config, p, i, n)[0]))

    def _discovered(
        self, layouts: Mapping[str, TokenLayout], small: Any, noise: Any
    ) -> dict[str, Stream]:
        """Streams of the model; whoever asks replaces their layouts."""
        if self._streams is None:
            watched = functools.partial(sample, self.config, watch=True)
            self._streams = discover(watched, layouts, self._params, small, noise)
        return self._streams

    def _plans(self, prepared: Prepared, kept: Kept, small: Any, noise: Any) -> Sequence[Plan]:
        """What to keep of every sample, over the full layout, for the program without the rest."""
        assert self.selection is not None
        items = [layouts_of(self.config, prepared, i) for i in range(len(noise))]
        streams_of_model = self._discovered(items[0], small, noise)
        prefix = tuple(int(place) for place in kept.places)
        if len(prefix) == kept.valid.shape[1]:
            prefix = None
        plans = []
        for made in items:
            actions = made["suffix"].length - made["prefix"].length
            start = made["prefix"].length
            suffix = prefix and (*prefix, *range(start, start + actions))
            streams = {
                "prefix": dataclasses.replace(
                    streams_of_model["prefix"], layout=made["prefix"], queries=prefix, keys=prefix
                ),
                "suffix": dataclasses.replace(
                    streams_of_model["suffix"], layout=made["suffix"], keys=suffix
                ),
            }
            plans.append(resolve(self.selection, streams))
        require_same_structure(plans)
        return plans

    def _program(self, plan: Plan | None, num_steps: int | None = None) -> Callable[..., Any]:
        steps = num_steps or self.config.num_inference_steps
        key = steps if plan is None else structure(plan)
        if key not in self._programs:
            config = self.config
            if plan is None:
                self._programs[key] = jax.jit(
                    lambda p, i, n: sample(config, p, i, n, num_steps=steps)[0]
                )
            else:
                watched = functools.partial(sample, config, watch=True)
                self._programs[key] = jax.jit(capture_grouped(watched, plan))
        return self._programs[key]


def load_policy(
    checkpoint: PathLike,
    tokenizer: PathLike | None = None,
    precision: str | None = None,
    capture: Selection | None = None,
    *,
    bucket: int = BUCKET,
) -> Policy:
    """Reads a checkpoint, weights included; takes a while.

    Args:
      checkpoint: a LeRobot folder, the --workdir of a training run or a folder of `launch.bridge`.
      tokenizer: folder with tokenizer.json, or a name, instead of the checkpoint's.
      precision: see `Pi05Config`; None is what the checkpoint says.
      capture: what to keep of the attention of every prediction.
      bucket: prompts are padded to a multiple of so many tokens.

    Raises:
      CheckpointError, ConfigError: files that are missing, damaged or of another policy.
    """
    description = describe(checkpoint, tokenizer=tokenizer, precision=precision)
    return with_weights(description, capture=capture, bucket=bucket)


def with_weights(
    description: Description, *, capture: Selection | None = None, bucket: int = BUCKET
) -> Policy:
    """Reads the weights of a checkpoint that is described already."""
    params = description.checkpoint.params()
    return Policy(description, params, selection=capture, bucket=bucket)


def denoising_facts(times: NumpyArray) -> dict[str, Any]:
    """`denoising_steps` and `times`, (s,) float32, as the shortest decimals that mean the same.

    A selection may keep some of the passes only: the record then says which, and these facts when
    and of how many.
    """
    return {"denoising_steps": len(times), "times": [float(str(time)) for time in times]}


def _rest(kept: NumpyArray) -> list[TokenGroup]:
    return [TokenGroup("kept", tuple(np.flatnonzero(kept).tolist()))] if kept.any() else []


def _onto_device(tree: dict[str, Any]) -> dict[str, Any]:
    """Moves a tree leaf by leaf and in place, so that it is never held twice."""
    for name in list(tree):
        leaf = tree[name]
        tree[name] = _onto_device(leaf) if isinstance(leaf, dict) else jax.device_put(leaf)
    return tree
