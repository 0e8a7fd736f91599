"""Text from the language model inside Pi0.5: greedy or sampled continuation of the prompt.

The prefix (cameras, prompt) looks at itself in both directions, as it does for actions; generated
tokens look at it and at those before them. Keys and values go into a cache of fixed size inside one
compiled loop, which ends early when every sample has ended. The attention of the generated tokens,
stream `text`, comes from one more pass over all of them at once; row i is that of generated token
i, which predicts token i + 1 (token 0 is predicted by the prompt's last row of the stream
`prefix`).

Axis names: b batch, n generated tokens, p prefix tokens, k cached tokens (p + n), v vocabulary,
e width.

    answer, _ = generate(config, params, head, inputs, max_tokens=32)      # traceable
    answer.tokens                                                # (b, n), 0 after the end
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from attn_jax.core import taps
from attn_jax.core.errors import ConfigError
from attn_jax.core.typing import Array, Float, Params, PRNGKey
from attn_jax.models.pi05.config import Pi05Config
from attn_jax.models.pi05.model import Pi05, Pi05Inputs, PrefixCache

EOS_ID = 1
PAD_ID = 0


@flax.struct.dataclass
class Answer:
    """Generated text.

    Attributes:
      tokens: (b, n) int32, `PAD_ID` after the end.
      mask: (b, n), True up to the end token, which counts.
      logits: (b, n, v) float32 from which each token was chosen, 0 after all have ended; None
        unless asked for.
    """

    tokens: Array
    mask: Array
    logits: Array | None


def generate(
    config: Pi05Config,
    params: Params,
    head: Float[Array, "v e"],
    inputs: Pi05Inputs,
    rng: PRNGKey | None = None,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    keep_logits: bool = False,
    watch: bool = False,
) -> tuple[Answer, dict[str, Any]]:
    """Continues the prompt.

    Args:
      config: the model.
      params: its parameters.
      head: rows of the output layer, one for each token of the vocabulary; the token embedding
        where the two are tied.
      inputs: cameras and prompt, padding at the right.
      rng: for sampling.
      max_tokens: n, at most so many tokens.
      temperature: 0 takes the likeliest token; else logits are divided by it and sampled from.
      keep_logits: whether logits are returned.
      watch: open the attention collection.

    Returns:
      The answer, and what was sown: `prefix` and `text`. Empty without `watch`.

    Raises:
      ConfigError: a number that cannot be, or sampling without `rng`.
    """
    if max_tokens < 1:
        raise ConfigError(f"must be at least 1, got {max_tokens}", where="max_tokens")
    if not 0 <= temperature < math.inf:
        raise ConfigError(f"must be at least 0 and finite, got {temperature}", where="temperature")
    if temperature and rng is None:
        raise ConfigError("sampling needs a random key", where="rng")
    model, variables = Pi05(config), {"params": params}

    def run(*args: Any, method: str) -> tuple[Any, Any]:
        if not watch:
            return model.apply(variables, *args, method=method), {}
        return model.apply(variables, *args, method=method, mutable=[taps.COLLECTION])

    (cache, hidden), sown_prefix = run(inputs, method="encode")
    answer, layers = _loop(
        model, variables, head, cache, hidden, rng, max_tokens, temperature, keep_logits
    )
    if not watch:
        return answer, {}
    _, sown_text = run(*_all_at_once(answer, cache, layers), method="read_text")
    return answer, {"prefix": sown_prefix, "text": sown_text}


def _loop(
    model: Pi05,
    variables: Any,
    head: Array,
    cache: PrefixCache,
    hidden: Array,
    rng: PRNGKey | None,
    count: int,
    temperature: float,
    keep_logits: bool,
) -> tuple[Answer, Any]:
    """The generated tokens, and keys and values of the prefix."""
    batch, length = cache.valid.shape

    def logits_of(states: Array) -> Array:
        return jnp.einsum("be,ve->bv", states, head, preferred_element_type=jnp.float32)

    def choose(logits: Array, number: Array) -> Array:
        if not temperature:
            return jnp.argmax(logits, axis=-1)
        assert rng is not None
        return jax.random.categorical(jax.random.fold_in(rng, number), logits / temperature)

    def body(state: dict[str, Any]) -> dict[str, Any]:
        i = state["i"]
        going = ~state["ended"]
        token = jnp.where(going, choose(state["logits"], i), PAD_ID).astype(jnp.int32)
        earlier = jnp.broadcast_to(jnp.arange(count) < i, (batch, count))
        keys = jnp.concatenate([cache.valid, earlier, jnp.ones((batch, 1), bool)], axis=1)
        states, own = model.apply(
            variables,
            token[:, None],
            (start + i)[:, None],
            keys[:, None, None, :],
            state["layers"],
            method="read_text",
        )
        out = {
            "i": i + 1,
            "ended": state["ended"] | (token == EOS_ID),
            "logits": logits_of(states[:, 0]),
            "layers": jax.tree.map(
                lambda kept, new: jax.lax.dynamic_update_slice_in_dim(kept, new, length + i, 1),
                state["layers"],
                own,
            ),
            "tokens": state["tokens"].at[:, i].set(token),
            "mask": state["mask"].at[:, i].set(going),
        }
        if keep_logits:
            out["kept"] = state["kept"].at[:, i].set(state["logits"])
        return out

    start = jnp.sum(cache.valid, axis=1, dtype=jnp.int32)
    last = length - 1 - jnp.argmax(cache.valid[:, ::-1], axis=1)
    first = logits_of(jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0])
    state = {
        "i": jnp.int32(0),
        "ended": jnp.zeros(batch, bool),
        "logits": first,
        # Room for what is generated; unused places are masked.
        "layers": jax.tree.map(
            lambda x: jnp.pad(x, ((0, 0), (0, count), (0, 0), (0, 0))), cache.layers
        ),
        "tokens": jnp.full((batch, count), PAD_ID, jnp.int32),
        "mask": jnp.zeros((batch, count), bool),
    }
    if keep_logits:
        state["kept"] = jnp.zeros((batch, count, first.shape[-1]), jnp.float32)
    state = jax.lax.while_loop(lambda s: (s["i"] < count) & ~jnp.all(s["ended"]), body, state)
    return Answer(state["tokens"], state["mask"], state.get("kept")), cache.layers


def _all_at_once(answer: Answer, cache: PrefixCache, layers: Any) -> tuple[Any, ...]:
    """Arguments of `Pi05.read_text` for all generated tokens; rows after the end are uniform."""
    batch, count = answer.tokens.shape
    start = jnp.sum(cache.valid, axis=1, dtype=jnp.int32)[:, None]
    causal = jnp.tril(jnp.ones((count, count), bool))
    own = causal[None] & answer.mask[:, None, :]
    prefix = jnp.broadcast_to(cache.valid[:, None, :], (batch, count, cache.valid.shape[1]))
    mask = jnp.concatenate([prefix, own], axis=2) & answer.mask[:, :, None]
    return answer.tokens, start + jnp.arange(count), mask[:, None], layers
