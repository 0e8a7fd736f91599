"""Pi0.5 as a family of `launch.train`: dataset, processors, model, task, what is kept beside.

built = build(config)              # of configs/pi05.py
built.prepare(workdir)             # processor files, text heads
built.finish(workdir)              # a LeRobot folder of the trained policy
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from attn_jax.bridge import processor_steps as names
from attn_jax.bridge.checkpoint_folder import FAMILY, PROCESSORS, open_checkpoint
from attn_jax.bridge.image_resize import model_image
from attn_jax.bridge.pi05 import camera_name
from attn_jax.bridge.pi05_write import lerobot_settings
from attn_jax.bridge.processors import Processors
from attn_jax.bridge.processors_write import processor_files, read_files, usable, write_files
from attn_jax.bridge.text_head import HEADS, keep_heads
from attn_jax.bridge.tokenizer import Tokens
from attn_jax.bridge.word_tokenizer import vocabulary_size, word_tokenizer
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Bool, Float, NumpyArray
from attn_jax.data.action_chunks import ActionChunks, split_episodes
from attn_jax.data.batches import BatchIterator
from attn_jax.data.lerobot import Dataset, open_dataset
from attn_jax.data.sampling import make_sampler
from attn_jax.models.pi05.augment import Augmentation
from attn_jax.models.pi05.config import Architecture, Pi05Config
from attn_jax.models.pi05.evaluate import ChunkEvaluation
from attn_jax.models.pi05.lora import LORA, LoraConfig
from attn_jax.models.pi05.patches import with_patch_size, with_patches
from attn_jax.models.pi05.supervision import Supervision
from attn_jax.models.pi05.task import Pi05Task
from attn_jax.train.sharding import process_rows
from launch.built import Built
from launch.pi05_export import export_lerobot

TOKENIZER = "tokenizer"
EXPORT = "pretrained_model"
LOOK_AT = "look_at.{}"  # feature of a camera, see configs/tabletop.py
_EVALUATION_BATCH = 32


def build(config: ml_collections.ConfigDict) -> Built:
    """The task of a configuration.

    Raises:
      InputError: the dataset, the checkpoint to start from or a value of the configuration.
    """
    if not config.data.dataset:
        raise ConfigError("data.dataset is empty", fix="Give --config.data.dataset=FOLDER")
    if not 0 <= config.data.cache_gb < math.inf:
        raise ConfigError(
            f"data.cache_gb is {config.data.cache_gb}", fix="It must be at least 0 and finite"
        )
    dataset = open_dataset(config.data.dataset)
    cameras = [key.strip() for key in config.data.cameras.split(",") if key.strip()]
    start = open_checkpoint(config.init_from) if config.init_from else None
    tokenizer = _tokenizer_files(config, dataset, start)
    model = _model(config, dataset, cameras or dataset.cameras, tokenizer, start)
    keys = {camera_name(key): key for key in cameras or dataset.cameras}
    looks = [LOOK_AT.format(name) for name in keys] if config.supervision.weight else []
    source = ActionChunks(
        dataset,
        model.chunk_size,
        [*keys.values()],
        columns=looks,
        cache_bytes=int(config.data.cache_gb * 1e9),
    )
    files = _files(config, dataset, keys, model, tokenizer)
    processors = _load(files, dataset, model)
    words = _words(config, dataset) if looks else ()
    make = BatchMaker(source, processors, model, keys, tuple(looks), words)
    train, held_out = split_episodes(len(dataset.episodes), config.data.validation_share)
    task = _task(config, model)
    if len(held_out):
        batches = make.spread(source.samples(held_out), config.evaluation.samples)
        evaluations = {"validation": ChunkEvaluation(task, batches, seed=config.seed)}
        task = dataclasses.replace(task, evaluations=evaluations)
    numbers = source.samples(train, config.data.start_share)
    sampler = make_sampler(
        config.data.sampling,
        size=len(numbers),
        batch_size=config.train.batch_size,
        seed=config.seed,
    )
    data = BatchIterator(
        lambda _, chosen: make(numbers[chosen]),
        sampler,
        len(numbers),
        rows=process_rows(config.train.batch_size),
    )
    settings = lerobot_settings(
        model,
        _with_features(start.settings if start else {}, dataset, keys),
        keys,
        state_dim=source.state.shape[1],
    )
    metadata = {
        "family": FAMILY,
        "model": model.to_json(),
        "settings": settings,
        "lora": None if task.lora is None else dataclasses.asdict(task.lora),
        "parameters": _count(task, model),
        "train_samples": len(numbers),
        "train_episodes": len(train),
        "validation_episodes": len(held_out),
        "dataset": pathlib.Path(config.data.dataset).name,
        "supervision": [*map(dict, start.supervision)] if start else [],
    }
    if task.supervision.weight:
        metadata["supervision"].append(task.supervision.to_json())
    logging.info(
        "%d parameters, %d samples of %d episodes",
        metadata["parameters"],
        len(numbers),
        len(train),
    )
    return Built(
        task,
        data,
        metadata,
        ("validation/action_mae", "min") if len(held_out) else ("", "min"),
        frozen=_frozen(config, task),
        params=None if start is None else _initial(start, model, task, config.seed),
        prepare=lambda workdir: _prepare(workdir, files, start),
        finish=lambda workdir: _export(config, workdir),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class BatchMaker:
    """Frames of a dataset as batches of `Pi05Task`, by way of the checkpoint's pre-processor.

    Attributes:
      source: samples.
      processors: of the checkpoint that is being made.
      config: the model.
      image_keys: camera name -> feature.
      look_keys: feature that says where to look, of every camera; none without supervision.
      words: words of prompts that are to be looked at.

    Raises:
      ConfigError: cells of such a feature that do not divide into the patches of the model.
    """

    source: ActionChunks
    processors: Processors
    config: Pi05Config
    image_keys: Mapping[str, str]
    look_keys: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    def __post_init__(self):
        for key in self.look_keys:
            pooled(self.source.dataset.column(key)[:1], self.config.architecture.grid, key)

    def __call__(self, indices: NumpyArray) -> dict[str, NumpyArray]:
        """The batch of these frames.

        Pictures of the model's size stay bytes; others are resized as for a prediction.
        """
        raw = self.source.gather(indices)
        wanted = (names.STATE, names.ACTION, names.TASK, *self.image_keys.values())
        values = self.processors.before({key: raw[key] for key in wanted})
        side = self.config.architecture.image_size
        pictures = [
            _sized(values[self.image_keys[name]], side)
            for name in self.config.cameras
            if name in self.image_keys
        ]
        if len({picture.dtype for picture in pictures}) > 1:
            pictures = [_as_floats(picture) for picture in pictures]
        looks = {}
        if self.look_keys:
            grid = self.config.architecture.grid
            shares = [pooled(raw[key], grid, key) for key in self.look_keys]
            looks["look_at"] = np.stack(shares, axis=1)
        if self.words:
            looks["look_at_words"] = tokens_of(values[names.PROMPT_TOKENS], self.words)
        return {
            **looks,
            "images": np.stack(pictures, axis=1),
            "image_mask": np.ones((len(indices), len(pictures)), np.bool_),
            "tokens": np.asarray(values[names.TOKENS], np.int32),
            "token_mask": np.asarray(values[names.TOKEN_MASK], np.bool_),
            "actions": np.asarray(values[names.ACTION], np.float32),
            "action_is_pad": raw["action_is_pad"],
            "index": raw["index"],
        }

    def spread(self, numbers: NumpyArray, count: int) -> list[dict[str, NumpyArray]]:
        """About `count` samples, evenly spread over `numbers`, in batches of one size."""
        count = min(count, len(numbers))
        size = min(count, _EVALUATION_BATCH)
        places = np.linspace(0, len(numbers) - 1, count - count % size).round().astype(int)
        return [self(part) for part in numbers[places].reshape(-1, size)]


def pooled(
    cells: Float[NumpyArray, "b m"], grid: tuple[int, int], where: str
) -> Float[NumpyArray, "b n"]:
    """Shares of a square grid of cells as shares of the model's patches, both in raster order.

    Raises:
      ConfigError: the cells are not a multiple of the patches on a side.
    """
    side = math.isqrt(cells.shape[1])
    rows, columns = grid
    if side * side != cells.shape[1] or side % rows or side % columns:
        raise ConfigError(
            f"{cells.shape[1]} cells do not divide into {rows} x {columns} patches", where=where
        )
    blocks = cells.reshape(len(cells), rows, side // rows, columns, side // columns)
    return np.asarray(blocks.mean(axis=(2, 4)).reshape(len(cells), -1), np.float32)


def _words(config: Any, dataset: Dataset) -> tuple[str, ...]:
    """Words that are to be looked at; each must be in a task, or it was mistyped."""
    words = tuple(filter(None, (word.strip() for word in config.supervision.words.split(","))))
    known = set(re.findall(r"\w+", " ".join(dataset.tasks)))
    missing = [word for word in words if word not in known]
    if missing:
        raise ConfigError(
            f"no task has the word {missing[0]!r}",
            where="supervision.words",
            fix=f"Use words of the tasks: {', '.join(sorted(known)[:20])}",
        )
    return words


def tokens_of(prompts: Tokens, words: Sequence[str]) -> Bool[NumpyArray, "b k"]:
    """Which tokens overlap with one of `words`, as whole words, in their prompt."""
    pattern = re.compile(rf"\b(?:{'|'.join(re.escape(word) for word in words)})\b")
    out = np.zeros(prompts.mask.shape, np.bool_)
    for item, prompt in enumerate(prompts.prompts):
        for found in pattern.finditer(prompt):
            first, stop = prompts.spans[item, :, 0], prompts.spans[item, :, 1]
            out[item] |= (first < found.end()) & (stop > found.start())
    return out


def _sized(picture: NumpyArray, side: int) -> NumpyArray:
    if picture.shape[1:3] == (side, side):
        return picture
    return np.asarray(model_image(picture.astype(np.float32) / np.float32(255), (side, side)))


def _as_floats(picture: NumpyArray) -> NumpyArray:
    if picture.dtype != np.uint8:
        return picture
    return picture.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)


def _tokenizer_files(config: Any, dataset: Dataset, start: Any) -> dict[str, bytes] | None:
    """Files of the tokenizer; None when it is found by a path or name outside."""
    if config.data.tokenizer:
        return None
    if start is None:
        return word_tokenizer(dataset.tasks)
    files = read_files(start.processor_folder / TOKENIZER)
    if not files:
        raise ConfigError(
            "the checkpoint to start from has no tokenizer beside it",
            where=config.init_from,
            fix="Name a folder that holds its tokenizer.json with --config.data.tokenizer",
        )
    return files


def _model(
    config: Any,
    dataset: Dataset,
    cameras: Sequence[str],
    tokenizer: Mapping[str, bytes] | None,
    start: Any,
) -> Pi05Config:
    used = tuple(camera_name(key) for key in cameras)
    actions = int(dataset.column(names.ACTION).shape[1])
    if start is not None:
        if actions > start.config.max_action_dim:
            raise ConfigError(
                f"the dataset has {actions} action dimensions, the checkpoint takes "
                f"{start.config.max_action_dim}",
                where=config.init_from,
            )
        size = config.init_patch_size or start.config.architecture.patch_size
        return dataclasses.replace(
            with_patch_size(start.config, size),
            cameras=used,
            action_dim=actions,
            precision="float32",
        )
    fields = config.model.to_dict()
    sizes = {field.name: fields.pop(field.name) for field in dataclasses.fields(Architecture)}
    if not sizes["vocab"]:
        if tokenizer is None:
            raise ConfigError("needs the size of the given tokenizer", where="model.vocab")
        sizes["vocab"] = math.ceil(vocabulary_size(tokenizer) / 16) * 16
    fields["max_action_dim"] = fields["max_action_dim"] or actions
    return Pi05Config(Architecture(**sizes), used, action_dim=actions, **fields)


def _files(
    config: Any,
    dataset: Dataset,
    keys: Mapping[str, str],
    model: Pi05Config,
    tokenizer: Mapping[str, bytes] | None,
) -> dict[str, bytes]:
    """Everything that stands in `processors/`."""
    kinds = ("exact", "dataset")
    if config.data.statistics not in kinds:
        raise ConfigError(
            f"unknown kind {config.data.statistics!r}", where="data.statistics", fix=f"Use {kinds}"
        )
    exact = config.data.statistics == "exact"
    statistics = {
        key: usable(dataset.statistics(key, exact=exact)) for key in (names.STATE, names.ACTION)
    }
    shapes = {key: _chw(dataset, key) for key in keys.values()}
    files = processor_files(
        statistics,
        image_shapes=shapes,
        prompt_length=model.prompt_length,
        tokenizer=config.data.tokenizer or TOKENIZER,
    )
    return files | {f"{TOKENIZER}/{name}": data for name, data in (tokenizer or {}).items()}


def _load(files: Mapping[str, bytes], dataset: Dataset, model: Pi05Config) -> Processors:
    """The processors of these files, with every task of the dataset tried.

    Raises:
      ConfigError: a prompt does not fit into the model's prompt length.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_files(folder, files)
        processors = Processors.load(folder)
        state = dataset.column(names.STATE)[:1].astype(np.float32)
        for task in dataset.tasks:  # reads the tokenizer, too
            values = processors.before({names.STATE: state, names.TASK: [task]})
            tokens = values[names.PROMPT_TOKENS]
            if tokens.mask.all():
                raise ConfigError(
                    f"the prompt of {task!r} fills all {model.prompt_length} tokens",
                    where="model.prompt_length",
                    fix="Set it to more than the longest prompt",
                )
    return processors


def _chw(dataset: Dataset, key: str) -> list[int]:
    height, width, channels = dataset.picture_shape(key)
    return [channels, height, width]


def _with_features(
    settings: Mapping[str, Any], dataset: Dataset, keys: Mapping[str, str]
) -> dict[str, Any]:
    """LeRobot's settings with the features of the dataset."""
    inputs = {key: {"type": "VISUAL", "shape": _chw(dataset, key)} for key in keys.values()}
    return {**settings, "input_features": inputs, "empty_cameras": 0}


def _task(config: Any, model: Pi05Config) -> Pi05Task:
    lora = config.lora
    return Pi05Task(
        model,
        count_padding=config.loss.count_padding,
        draws=config.loss.draws,
        augmentation=Augmentation(**config.augment.to_dict()),
        lora=LoraConfig(lora.rank, lora.alpha, lora.targets) if lora.rank else None,
        supervision=Supervision(**config.supervision.to_dict()),
        remat=config.remat,
    )


def _frozen(config: Any, task: Pi05Task) -> tuple[str, ...]:
    """Patterns of what is not trained, as LeRobot's options of these names."""
    if task.lora is not None:
        return (rf"^(?!{LORA}/)",)
    if config.freeze.train_expert_only:
        return ("^vision/", "^projector/", "^embedding$", "^backbone/")
    return ("^vision/",) if config.freeze.vision_encoder else ()


def _count(task: Pi05Task, model: Pi05Config) -> int:
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _initial(start: Any, model: Pi05Config, task: Pi05Task, seed: int) -> Any:
    """Parameters of the checkpoint, float32, with fresh corrections where LoRA is trained."""
    opened = dataclasses.replace(
        start, config=dataclasses.replace(start.config, precision=model.precision)
    )
    params = with_patches(opened.config, opened.params(), model.architecture.patch_size)
    return params if task.lora is None else task.with_lora(params, jax.random.key(seed))


def _prepare(workdir: pathlib.Path, files: Mapping[str, bytes], start: Any) -> None:
    write_files(workdir / PROCESSORS, files)
    if start is not None and not (workdir / HEADS).exists():
        keep_heads(start, workdir)  # actions do not train them


def _export(config: Any, workdir: pathlib.Path) -> None:
    step = "best" if config.export.best else "latest"
    opened = open_checkpoint(workdir, step=step, precision=config.export.precision)
    export_lerobot(opened, workdir / EXPORT)
    logging.info("wrote %s, step %s, for LeRobot and launch.predict", workdir / EXPORT, step)
