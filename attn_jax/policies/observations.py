"""What a checkpoint folder says without its weights, and observations as the model's input.

Observations have LeRobot's keys and b samples: `observation.images.<camera>` (b, h, w, 3) uint8 or
(b, 3, h, w) float in [0, 1], `observation.state` (b, s), `task` (b texts), or instead of the task
`observation.language.tokens` (b, k) with `observation.language.attention_mask`. Words and numbers
of such tokens get their names where a tokenizer was given or stands beside the checkpoint.

    description = describe("checkpoint", tokenizer="tokenizer")
    prepared = prepare(description, {"observation.images.wrist": image, "observation.state": state,
                                     "task": ["pick up the cube"]})
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from attn_jax.bridge import processor_steps as names
from attn_jax.bridge.checkpoint_folder import FAMILY, OpenCheckpoint, open_checkpoint
from attn_jax.bridge.image_resize import arrange_cameras
from attn_jax.bridge.processors import Processors
from attn_jax.bridge.tokenizer import PromptTokenizer
from attn_jax.core.errors import CheckpointError, InputError
from attn_jax.core.layout import TokenLayout
from attn_jax.core.typing import PathLike
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.models.pi05.layout import layouts
from attn_jax.models.pi05.model import Pi05Inputs, check_inputs


@dataclasses.dataclass(frozen=True)
class Description:
    """What a checkpoint folder says without its weights.

    Attributes:
      checkpoint: the opened folder.
      processors: of the checkpoint; None where it has none.
      named_tokenizer: instead of the checkpoint's, if one was named.
    """

    checkpoint: OpenCheckpoint
    processors: Processors | None
    named_tokenizer: PathLike | None = None

    @property
    def folder(self) -> pathlib.Path:
        """The checkpoint folder."""
        return self.checkpoint.folder

    @property
    def config(self) -> Pi05Config:
        """The model."""
        return self.checkpoint.config

    def provenance(self) -> dict[str, Any]:
        """What a run says about its model: `family`, `model` and which checkpoint it is.

        Raises:
          CheckpointError: the weights are missing or damaged.
        """
        identity = self.checkpoint.identity()
        return {"family": FAMILY, "model": self.config.to_json(), **identity}

    @property
    def image_keys(self) -> Mapping[str, str]:
        """Camera name -> LeRobot's key, in configured order."""
        return self.checkpoint.image_keys

    @functools.cached_property
    def tokenizer(self) -> PromptTokenizer | None:
        """What says which text given tokens are; None where no tokenizer is at hand.

        One that was named must be there; the checkpoint's is taken where its files are.

        Raises:
          ConfigError: the tokenizer cannot be loaded.
        """
        steps = () if self.processors is None else self.processors.pre
        step = next((step for step in steps if isinstance(step, names.Tokenise)), None)
        if step is not None:
            wanted = self.named_tokenizer is not None or step.at_hand
            return step.load() if wanted else None
        if self.named_tokenizer is None:
            return None
        return PromptTokenizer.load(self.named_tokenizer, self.config.prompt_length)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What goes into one prediction.

    Attributes:
      inputs: of the model, on the host.
      cameras: names in token order.
      values: what the pre-processor returned, for the way back.
      pieces: text of every prompt token of every sample, or None without a tokenizer.
    """

    inputs: Pi05Inputs
    cameras: tuple[str, ...]
    values: Mapping[str, Any]
    pieces: tuple[tuple[str, ...], ...] | None


def describe(
    folder: PathLike, *, tokenizer: PathLike | None = None, precision: str | None = None
) -> Description:
    """Reads the settings and processors of a checkpoint, not its weights.

    Args:
      folder: a LeRobot folder, the --workdir of a training run or a folder of `launch.bridge`.
      tokenizer: folder with tokenizer.json, or a name, instead of the checkpoint's.
      precision: see `Pi05Config`; None is what the checkpoint says.

    Raises:
      CheckpointError, ConfigError: files that are missing, damaged or of another policy.
    """
    checkpoint = open_checkpoint(folder, precision=precision)
    return Description(checkpoint, checkpoint.processors(tokenizer), tokenizer)


def prepare(description: Description, observation: Mapping[str, Any]) -> Prepared:
    """An observation as the model's input.

    Raises:
      InputError: arrays that are missing or do not fit the checkpoint or each other.
      CheckpointError: texts, but no processors.
      ConfigError: a tokenizer that cannot be loaded.
    """
    values = {key: _picture(key, value) for key, value in observation.items()}
    processors, folder = description.processors, description.folder
    if names.TOKENS not in values and processors is None:
        raise CheckpointError(
            "has no processors, so that no prompt can be made",
            where=folder,
            fix="Give `tokens` and `token_mask`, or save the processors beside the weights",
        )
    if names.TOKENS not in values and names.TASK not in values:
        raise InputError("the observation has neither tokens nor a task")
    if processors is not None:
        values = processors.before(values)
    if names.TOKENS not in values:
        raise CheckpointError(
            "the pre-processor has no tokenizer step",
            where=folder,
            fix="Give `tokens` and `token_mask`",
        )
    side = description.config.architecture.image_size
    cameras = arrange_cameras(values, tuple(description.image_keys.values()), (side, side))
    inputs = Pi05Inputs(
        images=np.stack([np.asarray(image) for image in cameras.images], axis=1),
        image_mask=np.stack(cameras.masks, axis=1),
        tokens=np.asarray(values[names.TOKENS]).astype(np.int32),
        token_mask=np.asarray(values[names.TOKEN_MASK]).astype(np.bool_),
    )
    if len(inputs.tokens) != len(inputs.images):
        raise InputError(f"{len(inputs.tokens)} prompts for {len(inputs.images)} pictures")
    check_inputs(description.config, inputs)
    of_key = {key: name for name, key in description.image_keys.items()}
    made = values.get(names.PROMPT_TOKENS)
    pieces = None
    if made is not None:
        pieces = tuple(made.pieces)
    elif (tokenizer := description.tokenizer) is not None:
        pieces = tokenizer.pieces_of(inputs.tokens, inputs.token_mask)
    return Prepared(inputs, tuple(of_key[key] for key in cameras.keys), values, pieces)


def _picture(key: str, value: Any) -> Any:
    """Pictures as floats; everything else as it is."""
    if not key.startswith("observation.image"):
        return value
    if value.dtype == np.uint8:
        return value.astype(np.float32) / np.float32(255)
    return value


def layouts_of(config: Pi05Config, prepared: Prepared, item: int) -> dict[str, TokenLayout]:
    """Layouts of the streams of one sample, over the full prefix."""
    inputs = prepared.inputs
    return layouts(
        config,
        prepared.cameras,
        np.asarray(inputs.image_mask[item]),
        np.asarray(inputs.tokens[item]),
        np.asarray(inputs.token_mask[item]),
        pieces=None if prepared.pieces is None else prepared.pieces[item],
    )
