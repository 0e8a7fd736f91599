"""The LeRobot policy `attn_jax`: LeRobot's interface around `attn_jax.policies`.

Observations come as torch tensors and go on as NumPy arrays; the whole prediction, with the
checkpoint's processors, is ours. With `attention_dir`, every prediction is recorded.
"""

from __future__ import annotations

import atexit
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy

from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import NumpyArray
from attn_jax.core.versions import package_versions
from attn_jax.policies.actions import ActionQueue
from attn_jax.policies.policy import Policy, load_policy
from attn_jax.probe.select import Selection

from .configuration_attn_jax import AttnJaxConfig
from .processor_attn_jax import make_attn_jax_pre_post_processors
from .recording_attn_jax import BatchRecording, watch_lerobot_eval

_IMAGES, _STATE, _TASK = "observation.images.", "observation.state", "task"


class AttnJaxPolicy(PreTrainedPolicy):
    """A compiled Pi0.5 as LeRobot drives it; see `AttnJaxConfig`."""

    config_class = AttnJaxConfig  # pyright: ignore[reportAssignmentType]
    name = "attn_jax"  # pyright: ignore[reportAssignmentType]

    def __init__(self, config: AttnJaxConfig, **_: Any):
        """Reads the checkpoint.

        Raises:
          ConfigError, CheckpointError: no checkpoint, or one that cannot be read.
        """
        super().__init__(config)
        if not config.checkpoint:
            raise ConfigError("--policy.checkpoint is required")
        # LeRobot moves policies between devices and asks for their parameters.
        self.anchor = torch.nn.Parameter(torch.zeros(()), requires_grad=False)
        wanted = config.attention_dir is not None and config.capture
        selection = Selection.parse(config.capture) if wanted else None
        self._selection = selection
        self._policy = load_policy(
            config.checkpoint, config.tokenizer, config.precision, capture=selection
        )
        self._queue = ActionQueue(
            self._policy, seed=config.noise_seed, n_action_steps=config.n_action_steps
        )
        self._recording = None
        if config.attention_dir is not None:
            self._recording = BatchRecording(
                config.attention_dir,
                selection=selection,
                provenance=_provenance(config, self._policy),
                source="lerobot",
            )
            watch_lerobot_eval()
            atexit.register(self._recording.end)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, pretrained_name_or_path: Any, *, config: Any = None, **_: Any
    ) -> AttnJaxPolicy:
        """A policy from what `save_pretrained` wrote; its settings name the checkpoint."""
        found = config or PreTrainedConfig.from_pretrained(pretrained_name_or_path)
        policy = cls(found)
        policy.eval()
        return policy

    def _save_pretrained(
        self, save_directory: pathlib.Path, state_dict: dict[str, Any] | None = None
    ) -> None:
        """Writes the settings and pipelines; weights stay in the checkpoint that they name."""
        del state_dict
        self.config._save_pretrained(save_directory)
        for pipeline in make_attn_jax_pre_post_processors(self.config):  # pyright: ignore[reportArgumentType]
            pipeline.save_pretrained(save_directory)

    def get_optim_params(self) -> dict[str, Any]:
        """Nothing to train here."""
        return {}

    def forward(self, batch: dict[str, Any]) -> tuple[Any, dict[str, Any] | None]:
        """Not trained by LeRobot."""
        raise ConfigError("LeRobot cannot train this policy", fix="Use launch.train")

    def reset(self) -> None:
        """Episodes begin, one for each environment of the next batch."""
        self._queue.reset()
        if self._recording is not None:
            self._recording.begin()

    def predict_action_chunk(self, batch: dict[str, Any], **options: Any) -> Any:
        """Chunks (b, H, a) in units of the robot; records nothing.

        Args:
          batch: LeRobot's observation.
          **options: `noise` (b, H, A), standard normal, and `num_steps`, denoising steps; another
            number of steps is compiled once. None is the same as leaving one out.

        Raises:
          ConfigError: another option, as those of real-time chunking, or a number of steps that
            cannot be.
          InputError: an observation or noise that does not fit.
        """
        given = {name: value for name, value in options.items() if value is not None}
        noise, num_steps = given.pop("noise", None), given.pop("num_steps", None)
        if given:
            raise ConfigError(
                f"predict_action_chunk takes no {', '.join(given)}",
                fix="It takes noise and num_steps; real-time chunking is not supported",
            )
        if noise is not None:
            noise = torch.as_tensor(noise).detach().cpu().float().numpy()
        prediction = self._policy.predict(
            _observation(batch), noise, capture=False, num_steps=num_steps
        )
        return torch.from_numpy(prediction.actions.copy()).to(self.anchor.device)

    def select_action(self, batch: dict[str, Any], **options: Any) -> Any:
        """The next action of every environment, (b, a) in units of the robot."""
        if options:
            raise ConfigError(f"select_action takes no {', '.join(options)}")
        queue = self._queue
        observation, noise = None, None
        if queue.needs_prediction:
            observation = _observation(batch)
            noise = self._noise(len(observation[_STATE]))
        step = queue.step
        action = queue.select_action(observation or {}, noise)
        if observation is not None and self._recording is not None:
            assert queue.prediction is not None
            call = step // queue.n_action_steps
            self._recording.call(
                env_step=step,
                images={
                    key.removeprefix(_IMAGES): value
                    for key, value in observation.items()
                    if key.startswith(_IMAGES)
                },
                state=observation[_STATE],
                prompts=observation[_TASK],
                prediction=queue.prediction,
                wanted=self._selection is not None and self._selection.wants(call),
            )
        return torch.from_numpy(action.copy()).to(self.anchor.device)

    def _noise(self, batch: int) -> NumpyArray:
        """By episode, so that an episode is the same in a batch of another size."""
        first = 0 if self._recording is None else self._recording.first
        call, seed = self._queue.step // self._queue.n_action_steps, self.config.noise_seed  # pyright: ignore[reportAttributeAccessIssue]
        return np.stack(
            [self._policy.episode_noise(seed, first + item, call) for item in range(batch)]
        )

    def note_done(self, done: NumpyArray, success: NumpyArray | None) -> None:
        """Environments (b,) whose episode is over; called by the watched `lerobot-eval`."""
        if self._recording is not None:
            self._recording.note(done, success, self._queue.step)

    def finish(self) -> None:
        """The rollout is over, for instance at its limit of steps: every episode ends, in failure.

        LeRobot counts an episode that reached the limit as done and not successful.
        """
        if self._recording is not None:
            everyone = np.ones(self._recording.size, bool)
            self._recording.note(everyone, ~everyone, self._queue.step)


def _provenance(config: AttnJaxConfig, policy: Policy) -> dict[str, Any]:
    """What `run.json` says about the policy; holds no host-specific path."""
    settings = {name: getattr(config, name) for name in ("precision", "n_action_steps", "capture")}
    tokenizer = None if config.tokenizer is None else pathlib.PurePath(config.tokenizer).name
    return {
        **policy.description.provenance(),
        "config": {
            **settings,
            "rename_map": dict(config.rename_map),
            "tokenizer": tokenizer,
        },
        "packages": package_versions("lerobot", "torch"),
        "python": platform.python_version(),
        "seed": config.noise_seed,
    }


def _observation(batch: Mapping[str, Any]) -> dict[str, Any]:
    """LeRobot's batch with pictures as bytes (b, h, w, 3), which is what the camera gave."""
    out: dict[str, Any] = {}
    for key, value in batch.items():
        if key.startswith(_IMAGES):
            floats = value.detach().cpu().float().numpy()
            pictures = np.rint(np.clip(floats, 0, 1) * 255).astype(np.uint8)
            out[key] = np.ascontiguousarray(np.moveaxis(pictures, 1, 3))
        elif key == _STATE:
            out[key] = value.detach().cpu().float().numpy()
        elif key == _TASK:
            out[key] = [value] if isinstance(value, str) else list(value)
    return out
