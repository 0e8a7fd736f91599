"""Groups as arguments: the values of the static path, an own layout per item, one compilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.errors import LayoutError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.nn.attention import Attention
from attn_jax.probe import groups
from attn_jax.probe.capture import capture, capture_grouped, reduce, to_records
from attn_jax.probe.select import Selection, Stream, resolve
from tests import testing

HEADS, IMAGE, DUMMY, PROMPT = 2, 4, 2, 6
TOKENS = IMAGE + DUMMY + PROMPT
EVERYTHING = "layers=all;reduce=full,head_mean,patch_map,group_mass,entropy;dtype=float32"


def layout(text: int, state: int) -> TokenLayout:
    """Four patches, a dummy camera, and a prompt of `text` and `state` tokens, padded."""
    start, stop = IMAGE + DUMMY, IMAGE + DUMMY + text
    return TokenLayout(
        TOKENS,
        (
            TokenGroup("image/wrist", tuple(range(IMAGE)), grid=(2, 2)),
            TokenGroup("image/spare", (IMAGE, IMAGE + 1), grid=(1, 2), valid=False),
            TokenGroup("text", tuple(range(start, stop))),
            TokenGroup("state", tuple(range(stop, stop + state))),
            TokenGroup("pad", tuple(range(stop + state, TOKENS)), valid=False),
        ),
    )


def plan_of(made: TokenLayout, text: str = EVERYTHING, places: tuple[int, ...] | None = None):
    return resolve(
        Selection.parse(text), {"s": Stream(made, 1, HEADS, queries=places, keys=places)}
    )


def masked(made: TokenLayout) -> np.ndarray:
    return ~np.isin(np.arange(TOKENS), made.tokens("valid"))


def maps_of(made: TokenLayout, seed: int = 0) -> np.ndarray:
    """Random maps (1, h, q, k) as a model gives them: masked keys 0, masked rows uniform."""
    logits = np.random.default_rng(seed).normal(size=(1, HEADS, TOKENS, TOKENS)) * 2
    logits[..., masked(made)] = -np.inf
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    probs[:, :, masked(made)] = 1 / TOKENS
    return probs.astype(np.float32)


LAYOUTS = (layout(2, 1), layout(3, 2))
REDUCTIONS = ("full", "head_mean", "patch_map", "group_mass", "entropy")


@pytest.mark.parametrize("name", REDUCTIONS)
def test_every_item_has_its_own_groups(name):
    plans = [plan_of(made) for made in LAYOUTS]
    probs = jnp.concatenate([maps_of(made, seed) for seed, made in enumerate(LAYOUTS)])
    found = reduce(name, probs, plans[0].streams["s"], groups.stream_groups(plans)["s"])
    for item, plan in enumerate(plans):
        expected = reduce(name, probs[item : item + 1], plan.streams["s"])
        np.testing.assert_allclose(found[item], expected[0], atol=1e-6)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_left_out_tokens_come_back(name):
    # Both items without the dummy camera and what is padding in both: image and five of the prompt.
    places = (0, 1, 2, 3, 6, 7, 8, 9, 10)
    plans = [plan_of(made, places=places) for made in LAYOUTS]
    probs = np.concatenate([maps_of(made, seed) for seed, made in enumerate(LAYOUTS)])
    small = jnp.asarray(probs[:, :, places][..., places])
    # Masked rows of the small program are uniform over its own keys.
    small = jnp.where(
        np.stack([masked(x)[list(places)] for x in LAYOUTS])[:, None, :, None], 1 / 9, small
    )
    found = reduce(name, small, plans[0].streams["s"], groups.stream_groups(plans)["s"])
    found = np.asarray(found)[:, None, None]  # (b, s, l, h, q, k)
    full = groups.expand({"s": {name: found}}, plans)["s"][name]
    for item, made in enumerate(LAYOUTS):
        expected = reduce(name, jnp.asarray(probs[item : item + 1]), plan_of(made).streams["s"])
        np.testing.assert_allclose(full[item, 0, 0], expected[0], atol=1e-6)
        record = to_records({"s": {name: full}}, plans)[item]
        assert next(iter(record.values())).layout.group("text") == made.group("text")


def test_dtype_stays_when_rows_come_back():
    plan = plan_of(LAYOUTS[0], places=(0, 1, 2, 3, 6, 7, 8, 9))
    maps = {"s": {"full": np.full((1, 1, 1, HEADS, 8, 8), 1 / 8, np.float16)}}
    full = groups.expand(maps, [plan])["s"]["full"]
    assert full.dtype == np.float16 and full.shape == (1, 1, 1, HEADS, TOKENS, TOKENS)


def test_one_program_serves_every_prompt_and_is_the_static_one():
    module, traces = Attention(HEADS, 4, stream="s", layer=0), []
    x = jax.random.normal(jax.random.key(0), (2, TOKENS, 6))
    params = module.init(jax.random.key(1), x)["params"]

    def apply(params, x):
        return module.apply({"params": params}, x, mutable=["attn"])

    plans = [plan_of(made) for made in LAYOUTS]

    def counted(*args):
        traces.append(1)
        return capture_grouped(apply, plans[0])(*args)

    program = jax.jit(counted)
    for order in ((0, 1), (1, 0), (1, 1)):
        chosen = [plans[i] for i in order]
        assert groups.structure(chosen[0]) == groups.structure(plans[0])
        outputs, maps = program(groups.stream_groups(chosen), params, x)
        for item, plan in enumerate(chosen):
            static, expected = capture(apply, plan)(params, x)
            np.testing.assert_allclose(outputs, static, atol=1e-6)
            for name in REDUCTIONS:
                np.testing.assert_allclose(
                    maps["s"][name][item], expected["s"][name][item], atol=1e-6
                )
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layers=all;queries=text;reduce=group_mass", "positions of the selected queries"),
        ("layers=all;keys=state;reduce=full", "positions of the selected keys"),
        ("layers=all;keys=valid;reduce=head_mean", "positions of the selected keys"),
    ],
)
def test_rows_that_move_with_the_prompt_are_refused(text, said):
    with pytest.raises(LayoutError, match=said):
        groups.stream_groups([plan_of(made, text) for made in LAYOUTS])


def test_groups_that_move_are_fine_as_groups():
    for text in (
        "layers=all;keys=text,state;reduce=group_mass,entropy",
        "layers=all;queries=text;reduce=patch_map",
        "layers=all;queries=image/wrist;reduce=full",
    ):
        groups.stream_groups([plan_of(made, text) for made in LAYOUTS])


def test_groups_that_one_item_lacks_are_named():
    whole = layout(4, 2)  # no padding
    whole = TokenLayout(TOKENS, tuple(g for g in whole.groups if g.indices))
    with pytest.raises(LayoutError, match=r"item 1 of the batch .* key groups: pad"):
        groups.stream_groups([plan_of(made, "reduce=group_mass") for made in (LAYOUTS[0], whole)])


def test_valid_tokens_cannot_be_left_out():
    with pytest.raises(LayoutError, match="leaves out token 0"):
        plan_of(LAYOUTS[0], places=tuple(range(1, TOKENS)))


if __name__ == "__main__":
    testing.main()
