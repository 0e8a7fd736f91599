"""LeRobot's own PI05Policy, built small with random weights, as the reference of parity tests.

Upstream fixes SigLIP, projector and vocabulary sizes in the code, so this replaces two names of its
module while a policy is built. Every parameter gets a random value: zeros, as upstream initialises
norms and biases, would hide errors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from attn_jax.models.pi05 import Architecture

SMALL = Architecture(64, 128, 32, 64, 3, 8, 1, 16, 300, 48, 2, 4, 96, 56)


@dataclasses.dataclass(frozen=True)
class Case:
    """A reference policy and one batch for it."""

    sizes: Architecture = SMALL
    cameras: int = 2
    empty_cameras: int = 1
    lengths: tuple[int, ...] = (17,)  # real prompt tokens of each sample
    prompt: int = 24
    chunk: int = 10
    action_dim: int = 7
    steps: int = 10
    dtype: str = "float32"
    seed: int = 0
    raw: tuple[int, int] = (56, 56)  # height and width of camera images


def make_policy(case: Case) -> Any:
    """A policy with random weights in evaluation mode."""
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.pi05 import modeling_pi05
    from lerobot.policies.pi05.configuration_pi05 import PI05Config

    s = case.sizes
    inputs = {
        f"observation.images.cam{i}": PolicyFeature(FeatureType.VISUAL, (3, *case.raw))
        for i in range(case.cameras)
    }
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (8,))
    config = PI05Config(
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (case.action_dim,))},
        dtype=case.dtype,
        chunk_size=case.chunk,
        n_action_steps=case.chunk,
        num_inference_steps=case.steps,
        image_resolution=(s.image_size, s.image_size),
        empty_cameras=case.empty_cameras,
        tokenizer_max_length=case.prompt,
        device="cpu",
    )
    with _patched(s), _quiet():
        policy = modeling_pi05.PI05Policy(config)
    policy.eval()
    generator = torch.Generator().manual_seed(case.seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            scale = 0.1 if "embed" in name and parameter.ndim == 2 else fan_in**-0.5
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise.to(parameter.dtype))
    return policy


def save(policy: Any, case: Case, folder: Path) -> None:
    """Saves a policy and proves that the folder holds it: reloaded weights are bit-equal."""
    import torch
    from lerobot.policies.pi05 import modeling_pi05

    with _quiet():
        policy.save_pretrained(folder)
    with _patched(case.sizes), _quiet():
        again = modeling_pi05.PI05Policy.from_pretrained(folder)
    expected = policy.state_dict()
    found = again.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if name.endswith("paligemma.lm_head.weight"):
            continue
        assert torch.equal(tensor, found[name]), name


def load(case: Case, folder: Path) -> Any:
    """What LeRobot makes of a folder, and what it printed."""
    from lerobot.policies.pi05 import modeling_pi05

    printed = io.StringIO()
    with _patched(case.sizes), _quiet(), contextlib.redirect_stdout(printed):
        policy = modeling_pi05.PI05Policy.from_pretrained(folder)
    policy.eval()
    return policy, printed.getvalue()


def make_batch(case: Case) -> dict[str, np.ndarray]:
    """Images `cam<i>` (b, 3, h, w) in [0, 1], `tokens`, `mask`, `noise`, `actions`, `time`."""
    rng = np.random.default_rng(case.seed + 1)
    size = len(case.lengths)
    mask = np.arange(case.prompt) < np.asarray(case.lengths)[:, None]
    tokens = rng.integers(3, case.sizes.vocab, mask.shape)
    tokens[:, 0] = 2
    batch = {f"cam{i}": rng.random((size, 3, *case.raw), np.float32) for i in range(case.cameras)}
    batch["tokens"] = np.where(mask, tokens, 0).astype(np.int64)
    batch["mask"] = mask
    batch["noise"] = rng.standard_normal((size, case.chunk, 32), np.float32)
    batch["actions"] = rng.standard_normal((size, case.chunk, case.action_dim), np.float32)
    batch["time"] = rng.uniform(0.001, 1.0, size).astype(np.float32)
    return batch


@dataclasses.dataclass
class Reference:
    """What LeRobot computes; NumPy float32."""

    actions: np.ndarray  # b, H, A
    prefix: np.ndarray  # layer, b, h, q, k
    suffix: np.ndarray  # step, layer, b, h, q, k
    velocity: np.ndarray  # step, b, H, 32
    keys: np.ndarray  # layer, b, p, g, d
    values: np.ndarray
    prefix_valid: np.ndarray  # b, p
    errors: np.ndarray  # b, H, 32: training, squared error per element


def torch_batch_of(case: Case, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """A batch as LeRobot's policies take it."""
    import torch

    found = {
        f"observation.images.cam{i}": torch.from_numpy(batch[f"cam{i}"])
        for i in range(case.cameras)
    }
    found["observation.language.tokens"] = torch.from_numpy(batch["tokens"])
    found["observation.language.attention_mask"] = torch.from_numpy(batch["mask"])
    return found


def model_inputs(policy: Any, case: Case, batch: dict[str, np.ndarray]) -> tuple[Any, ...]:
    """Images, image masks, tokens and token mask as the network inside the policy takes them."""
    found = torch_batch_of(case, batch)
    with _quiet():
        images, masks = policy._preprocess_images(found)
    language = "observation.language"
    return images, masks, found[f"{language}.tokens"], found[f"{language}.attention_mask"]


def prefix_arguments(model: Any, x: Any, valid: Any, blocks: Any) -> dict[str, Any]:
    """What the joint model is called with for the prefix pass, as `sample_actions` does."""
    import torch
    from lerobot.policies.pi05 import modeling_pi05

    mask = modeling_pi05.make_att_2d_masks(valid, blocks)
    model.paligemma_with_expert.paligemma.model.language_model.config._attn_implementation = "eager"
    return {
        "attention_mask": modeling_pi05.prepare_attention_masks_4d(mask),
        "position_ids": torch.cumsum(valid, dim=1) - 1,
        "past_key_values": None,
        "inputs_embeds": [x, None],
        "use_cache": True,
    }


def run(policy: Any, case: Case, batch: dict[str, np.ndarray]) -> Reference:
    """Predicts with the batch's noise, watched by forward hooks; then the training errors."""
    import torch

    model = policy.model
    joint = model.paligemma_with_expert
    torch_batch = torch_batch_of(case, batch)
    prefix, suffix, velocity, caches, valid = [], [], [], [], []
    step = model.denoise_step

    def watched_step(**arguments: Any):
        if not caches:
            caches.extend(
                (keys.clone(), values.clone()) for keys, values, _ in arguments["past_key_values"]
            )
            valid.append(arguments["prefix_pad_masks"])
        out = step(**arguments)
        velocity.append(out)
        return out

    hooks = [
        layer.self_attn.register_forward_hook(lambda _m, _i, out, to=to: to.append(out[1]))
        for layers, to in (
            (joint.paligemma.model.language_model.layers, prefix),
            (joint.gemma_expert.model.layers, suffix),
        )
        for layer in layers
    ]
    with torch.no_grad(), mock.patch.object(model, "denoise_step", watched_step), _quiet():
        actions = policy.predict_action_chunk(
            torch_batch, noise=torch.from_numpy(batch["noise"]), num_steps=case.steps
        )
    for hook in hooks:
        hook.remove()
    with torch.no_grad(), _quiet():
        images, masks = policy._preprocess_images(torch_batch)
        padded = np.pad(batch["actions"], ((0, 0), (0, 0), (0, 32 - case.action_dim)))
        errors = (
            model.forward(
                images,
                masks,
                torch_batch["observation.language.tokens"],
                torch_batch["observation.language.attention_mask"],
                *(torch.from_numpy(x) for x in (padded, batch["noise"], batch["time"])),
            )
            if case.sizes.heads == 8  # upstream's joint pass is fixed to 8 heads
            else torch.zeros(0)
        )
    depth = case.sizes.depth
    assert len(prefix) == depth and len(suffix) == depth * case.steps
    suffix_maps = _stack(suffix)
    return Reference(
        actions=_numpy(actions),
        prefix=_stack(prefix),
        suffix=suffix_maps.reshape(case.steps, depth, *suffix_maps.shape[1:]),
        velocity=_stack(velocity),
        keys=_stack([keys for keys, _ in caches]).swapaxes(2, 3),
        values=_stack([values for _, values in caches]).swapaxes(2, 3),
        prefix_valid=valid[0].numpy(),
        errors=_numpy(errors),
    )


def generate_text(
    policy: Any, case: Case, batch: dict[str, np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Greedy text of transformers' PaliGemma inside the policy, without a cache.

    Returns:
      ids (b, n), logits (b, n, v) and the attention of the generated tokens (layer, b, h, n, k).
    """
    import torch
    from lerobot.policies.pi05 import modeling_pi05

    model = policy.model
    paligemma = model.paligemma_with_expert.paligemma
    language = paligemma.model.language_model
    maps: list[Any] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda _m, _i, out: maps.append(out[1]))
        for layer in language.layers
    ]
    ids: list[Any] = []
    logits: list[Any] = []
    with torch.no_grad(), _quiet():
        x, valid, blocks = model.embed_prefix(*model_inputs(policy, case, batch))
        language.config._attn_implementation = "eager"
        # Every sample's last real token, whose state gives the first generated one.
        last = torch.stack([torch.nonzero(row).max() for row in valid])
        for number in range(count + 1):
            maps.clear()
            mask = modeling_pi05.make_att_2d_masks(valid, blocks)
            states = language(
                inputs_embeds=x,
                attention_mask=modeling_pi05.prepare_attention_masks_4d(mask),
                position_ids=torch.cumsum(valid, dim=1) - 1,
                use_cache=False,
            ).last_hidden_state
            at = last if not number else torch.full_like(last, x.shape[1] - 1)
            rows = paligemma.lm_head(states[torch.arange(len(at)), at])
            if number == count:
                break
            logits.append(rows)
            ids.append(rows.argmax(-1))
            new = model.paligemma_with_expert.embed_language_tokens(ids[-1][:, None])
            x = torch.cat([x, new.to(x.dtype)], dim=1)
            ones = torch.ones_like(valid[:, :1])
            # A block of its own, so that nothing before it sees it.
            valid, blocks = torch.cat([valid, ones], 1), torch.cat([blocks, ones], 1)
    for hook in hooks:
        hook.remove()
    rows_of_generated = _stack(maps)[:, :, :, -count:]
    return (
        np.stack([_numpy(x) for x in ids], 1).astype(np.int32),
        np.stack([_numpy(x) for x in logits], 1),
        rows_of_generated,
    )


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().float().numpy()


def _stack(tensors: list[Any]) -> np.ndarray:
    return np.stack([_numpy(tensor) for tensor in tensors])


@contextlib.contextmanager
def _quiet():
    """Upstream prints and warns; neither is ours to judge."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _patched(sizes: Architecture):
    """Small sizes in place of those that upstream writes into its code."""
    from lerobot.policies.pi05 import modeling_pi05

    original = modeling_pi05.CONFIG_MAPPING

    def gemma_config(variant: str):
        width, mlp = (
            (sizes.width, sizes.mlp)
            if variant == "gemma_2b"
            else (sizes.expert_width, sizes.expert_mlp)
        )
        return modeling_pi05.GemmaConfig(
            width, sizes.depth, mlp, sizes.heads, sizes.kv_heads, sizes.head_dim
        )

    class Joint(modeling_pi05.PaliGemmaWithExpertModel):
        def __init__(self, *arguments: Any, **options: Any):
            with (
                mock.patch.object(modeling_pi05, "CONFIG_MAPPING", _Configs(original, sizes)),
                (
                    mock.patch.object(
                        modeling_pi05,
                        "PaliGemmaForConditionalGenerationWithPiGemma",
                        _shrunk(modeling_pi05.PaliGemmaForConditionalGenerationWithPiGemma, sizes),
                    )
                ),
            ):
                super().__init__(*arguments, **options)

    with (
        mock.patch.object(modeling_pi05, "get_gemma_config", gemma_config),
        mock.patch.object(modeling_pi05, "PaliGemmaWithExpertModel", Joint),
    ):
        yield


class _Configs(dict):
    """transformers' configuration classes, with the expert's vocabulary made small."""

    def __init__(self, original: Any, sizes: Architecture):
        super().__init__()
        self._original, self._sizes = original, sizes

    def __getitem__(self, name: str):
        cls = self._original[name]
        if name != "gemma":
            return cls
        return lambda **options: cls(**{**options, "vocab_size": self._sizes.vocab})


def _shrunk(cls: Any, sizes: Architecture):
    """The PaliGemma class, built after its configuration has got small sizes."""

    def build(config: Any):
        config._vocab_size = sizes.vocab
        config.image_token_index = sizes.vocab
        config.text_config.vocab_size = sizes.vocab
        config.projection_dim = sizes.width
        vision = config.vision_config
        vision.hidden_size = sizes.vision_width
        vision.num_hidden_layers = sizes.vision_depth
        vision.num_attention_heads = sizes.vision_heads
        vision.intermediate_size = sizes.vision_mlp
        vision.patch_size = sizes.patch_size
        vision.projection_dim = sizes.width
        return cls(config=config)

    return lambda config: build(config)
