"""A question about pictures, answered by the language model inside a Pi0.5 checkpoint.

    python -m launch.answer --checkpoint=DIR --inputs=in.npz --outputs=out.npz --tokenizer=DIR
        [--max_tokens=32] [--temperature=0] [--tied] [--capture=all|SELECTION]

Input arrays, b samples: `image{i}` (b, 3, h, w) as for `launch.predict`, and `task` (b,) questions
(or `tokens` and `token_mask`, ids of whole prompts). A question is put as PaliGemma expects it:
start token, text, newline. Output arrays:

    answer_tokens  (b, n) ids, 0 after the end; answer (b,) texts, with a tokenizer
    attn_text      (layer, b, head, query, key) of the generated tokens on cameras, prompt and
                   each other, with --capture; attn_prefix and reductions as for `launch.predict`
    attn_labels    JSON text: layers, heads, names and token layouts of every attn_ array

A checkpoint without a text head is refused unless --tied says to use the token embedding.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import flags

from attn_jax.bridge import processor_steps as names
from attn_jax.bridge.processor_steps import Tokenise
from attn_jax.bridge.text_head import read_text_head
from attn_jax.bridge.tokenizer import PromptTokenizer, Tokens
from attn_jax.core.errors import ConfigError
from attn_jax.core.record import AttentionRecord
from attn_jax.models.pi05.compact import compact
from attn_jax.models.pi05.layout import layouts, text_layout
from attn_jax.models.pi05.text import Answer, generate
from attn_jax.policies.observations import Description, Prepared, describe, prepare
from attn_jax.probe.capture import capture, discover, to_records
from attn_jax.probe.select import Selection, resolve
from launch import app, compile_cache, predict

MAX_TOKENS = flags.DEFINE_integer("max_tokens", 32, "At most so many tokens.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.0, "0 takes the likeliest token, more samples.", lower_bound=0.0
)
TIED = flags.DEFINE_bool("tied", False, "The token embedding is the text head.")


def main() -> dict[str, Any]:
    """Answers; returns what --json prints."""
    for flag in (predict.CHECKPOINT, predict.INPUTS, predict.OUTPUTS):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is required")
    selection = Selection.parse(predict.CAPTURE.value) if predict.CAPTURE.value else None
    outputs = pathlib.Path(predict.OUTPUTS.value)
    if not outputs.absolute().parent.is_dir():
        raise ConfigError("its folder does not exist", where=outputs)
    arrays = predict.read_inputs(predict.INPUTS.value)
    precision = predict.DTYPE.value
    compile_cache.enable()
    description = describe(
        predict.CHECKPOINT.value,
        tokenizer=predict.TOKENIZER.value,
        precision="bfloat16_lerobot" if precision == "bfloat16" else precision,
    )
    tokenizer = None if "tokens" in arrays else tokenizer_of(description)
    prepared = questions(description, arrays, tokenizer)
    params = description.checkpoint.params()
    head = read_text_head(description.checkpoint, params, tied=TIED.value)
    answer, records = answered(description, params, head, prepared, selection)
    results = {"answer_tokens": np.asarray(answer.tokens)}
    texts: list[str] = []
    if tokenizer is not None:
        texts = [
            tokenizer.backend.decode(ids[mask].tolist())
            for ids, mask in zip(results["answer_tokens"], np.asarray(answer.mask), strict=True)
        ]
        results["answer"] = np.asarray(texts)
    results |= predict.attention_arrays(records)
    predict.write_outputs(outputs, results)
    shapes = {name: [*array.shape] for name, array in sorted(results.items())}
    return {"outputs": shapes, "answer": texts}


def tokenizer_of(description: Description) -> PromptTokenizer:
    """The tokenizer of the checkpoint's pre-processor, or that of --tokenizer.

    Raises:
      ConfigError: there is none.
    """
    steps = () if description.processors is None else description.processors.pre
    found = next((step for step in steps if isinstance(step, Tokenise)), None)
    if found is not None:
        return found.load()
    if predict.TOKENIZER.value is None:
        raise ConfigError("questions need a tokenizer", fix="Give --tokenizer, or `tokens`")
    return PromptTokenizer.load(predict.TOKENIZER.value, description.config.prompt_length)


def questions(
    description: Description,
    arrays: Mapping[str, np.ndarray],
    tokenizer: PromptTokenizer | None,
) -> Prepared:
    """Pictures and questions as the model's input; nothing is added but a newline."""
    values, made = predict.features(description, arrays), None
    if tokenizer is not None:
        made: Tokens | None = tokenizer([f"{text.strip()}\n" for text in values.pop(names.TASK)])
        assert made is not None
        values[names.TOKENS], values[names.TOKEN_MASK] = made.ids, made.mask
    prepared = prepare(description, values)
    return dataclasses.replace(prepared, pieces=None if made is None else made.pieces)


def answered(
    description: Description,
    params: dict[str, Any],
    head: Any,
    prepared: Prepared,
    selection: Selection | None,
) -> tuple[Answer, list[dict[str, AttentionRecord]] | None]:
    """The answers, and the records of every sample where something is captured."""
    config = description.config
    small, kept = compact(config, prepared.inputs)
    rng = jax.random.key(predict.SEED.value)
    run = functools.partial(
        generate, config, max_tokens=MAX_TOKENS.value, temperature=TEMPERATURE.value
    )
    arguments = params, head, small, rng
    if selection is None:
        return jax.jit(run)(*arguments)[0], None
    pieces = prepared.pieces if prepared.pieces and len(prepared.pieces) == 1 else None
    prefix = layouts(
        config,
        [prepared.cameras[i] for i in kept.cameras],
        np.asarray(small.image_mask[0]),
        np.asarray(small.tokens[0]),
        np.any(small.token_mask, axis=0),
        pieces=None if pieces is None else pieces[0][: kept.tokens],
    )["prefix"]
    streams = {"prefix": prefix, "text": text_layout(prefix, MAX_TOKENS.value)}
    watched = functools.partial(run, watch=True)
    plan = resolve(selection, discover(watched, streams, *arguments))
    answer, maps = jax.jit(capture(watched, plan))(*arguments)
    return answer, to_records(maps, plan)


if __name__ == "__main__":
    app.run(main)
