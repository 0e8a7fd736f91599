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

With --run and --questions the pictures are those of recorded episodes; see
`launch.episode_questions`.

    python -m launch.answer --checkpoint=DIR --run=RUN --questions=configs/prompts/questions.yaml
        [--capture="streams=prefix;queries=text;reduce=patch_map"] [--seed=0]
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags

from attn_jax.bridge import processor_steps as names
from attn_jax.bridge.text_head import read_text_head
from attn_jax.core.errors import ConfigError
from attn_jax.data.questions import read_questions
from attn_jax.policies.answers import Answerer, tokenizer_of
from attn_jax.policies.observations import describe
from attn_jax.probe.select import Selection
from launch import app, compile_cache, episode_questions, predict

RUN = app.define_run()
QUESTIONS = flags.DEFINE_string("questions", None, "Questions about --run, a YAML file.")
MAX_TOKENS = flags.DEFINE_integer("max_tokens", 32, "At most so many tokens.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.0, "0 takes the likeliest token, more samples.", lower_bound=0.0
)
TIED = flags.DEFINE_bool("tied", False, "The token embedding is the text head.")


def main() -> dict[str, Any]:
    """Answers; returns what --json prints."""
    if RUN.value or QUESTIONS.value:
        return _about_episodes()
    for flag in (predict.CHECKPOINT, predict.INPUTS, predict.OUTPUTS):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is required")
    outputs = pathlib.Path(predict.OUTPUTS.value)
    if not outputs.absolute().parent.is_dir():
        raise ConfigError("its folder does not exist", where=outputs)
    arrays = predict.read_inputs(predict.INPUTS.value)
    answerer = _answerer(tokens="tokens" in arrays)
    values = predict.features(answerer.description, arrays)
    asked = None if answerer.tokenizer is None else values[names.TASK]
    prepared = answerer.prepare(values, asked)
    answer, records = answerer.answer(prepared, jax.random.key(predict.SEED.value))
    results = {"answer_tokens": np.asarray(answer.tokens)}
    texts = answerer.texts(answer)
    if answerer.tokenizer is not None:
        results["answer"] = np.asarray(texts)
    results |= predict.attention_arrays(records)
    predict.write_outputs(outputs, results)
    shapes = {name: [*array.shape] for name, array in sorted(results.items())}
    return {"outputs": shapes, "answer": texts}


def _answerer(*, tokens: bool) -> Answerer:
    """The checkpoint of the flags; no tokenizer is needed where prompts are `tokens`."""
    selection = Selection.parse(predict.CAPTURE.value) if predict.CAPTURE.value else None
    precision = predict.DTYPE.value
    compile_cache.enable()
    description = describe(
        predict.CHECKPOINT.value,
        tokenizer=predict.TOKENIZER.value,
        precision="bfloat16_lerobot" if precision == "bfloat16" else precision,
    )
    tokenizer = None if tokens else tokenizer_of(description, predict.TOKENIZER.value)
    params = description.checkpoint.params()
    return Answerer(
        description,
        params,
        read_text_head(description.checkpoint, params, tied=TIED.value),
        tokenizer,
        selection,
        MAX_TOKENS.value,
        TEMPERATURE.value,
    )


def _about_episodes() -> dict[str, Any]:
    for flag in (predict.CHECKPOINT, RUN, QUESTIONS):
        if not flag.value:
            raise ConfigError(f"--{flag.name} is required")
    questions = read_questions(QUESTIONS.value)
    episode_questions.check_run(RUN.value)  # before the weights are read
    seed = predict.SEED.value
    answerer = _answerer(tokens=False)
    provenance = {**answerer.description.provenance(), **app.provenance(seed)}
    return episode_questions.ask(answerer, RUN.value, questions, seed=seed, provenance=provenance)


if __name__ == "__main__":
    app.run(main)
