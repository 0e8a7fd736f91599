"""What must hold when Pi0.5 is intervened in: structural facts, and one program for everything."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.models.pi05 import sample
from attn_jax.models.pi05.layout import layouts
from attn_jax.probe.capture import capture, discover
from attn_jax.probe.edits import donate, intervened, sweep
from attn_jax.probe.intervene import (
    AblateHeads,
    KnockOut,
    Nothing,
    Patch,
    RemoveKeys,
    ScaleValues,
    Steer,
    Temper,
    Together,
    patch_sweep,
    resolve_edits,
)
from attn_jax.probe.select import Selection, resolve
from tests import testing
from tests.models.pi05 import small

pytestmark = pytest.mark.slow

STEPS = 3
LAST = small.SIZES.depth - 1
COUNT = 64


def watched(params, inputs, noise):
    return sample(small.CONFIG, params, inputs, noise, num_steps=STEPS, watch=True)


def act(params, inputs, noise):
    return sample(small.CONFIG, params, inputs, noise, num_steps=STEPS)[0].actions


plain = jax.jit(act)
many = sweep(act)


@functools.cache
def streams():
    """One set of streams per sample: their prompts have different lengths."""
    inputs = small.inputs()
    found = []
    for item in range(2):
        made = layouts(
            small.CONFIG,
            small.CONFIG.cameras,
            *(np.asarray(x)[item] for x in (inputs.image_mask, inputs.tokens, inputs.token_mask)),
        )
        found.append(discover(watched, made, small.params(), inputs, small.noise()))
    return found


def edits_of(*interventions):
    """A stack of `COUNT`, so that every test runs in the same program."""
    filled = [*interventions, *[Nothing()] * (COUNT - len(interventions))]
    return resolve_edits(filled, streams(), cover="all")


def run(*interventions, inputs=None):
    """Actions under each intervention, (n, b, H, A)."""
    inputs = small.inputs() if inputs is None else inputs
    out = many(edits_of(*interventions), None, small.params(), inputs, small.noise())
    return np.asarray(out[: len(interventions)])


@functools.cache
def plain_actions():
    return np.asarray(plain(small.params(), small.inputs(), small.noise()))


def test_nothing_is_no_intervention():
    found = run(Nothing(), ScaleValues("image/*", 1.0), Steer(bias=0.0), Temper(temperature=1.0))
    np.testing.assert_array_equal(found, np.broadcast_to(found[:1], found.shape))
    np.testing.assert_allclose(found[0], plain_actions(), atol=5e-6)


def test_the_last_prefix_layer_is_inert_and_the_others_are_not():
    found = run(
        Nothing(),
        KnockOut("prompt", "image/base", streams=("prefix",), layers=(LAST,)),
        AblateHeads(streams=("prefix",), layers=(LAST,)),
        Temper(temperature=0.1, streams=("prefix",), layers=(LAST,)),
        KnockOut("prompt", "image/base", streams=("prefix",), layers=(0,)),
        KnockOut("action", "image/base", layers=(LAST,)),
    )
    for inert in found[1:4]:
        np.testing.assert_array_equal(inert, found[0])
    for active in found[4:]:
        assert np.abs(active - found[0]).max(axis=(1, 2)).min() > 1e-4


def test_without_image_keys_it_is_the_policy_without_images():
    """Positions count valid tokens, so they shift alike everywhere: rotations stay the same."""
    blind = small.inputs()
    blind = blind.replace(image_mask=jnp.zeros_like(blind.image_mask))
    expected = plain(small.params(), blind, small.noise())
    found = run(RemoveKeys("image/*"))[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - plain_actions()).max() > 1e-2


def test_cut_from_the_prefix_actions_depend_on_nothing_in_it():
    cut = KnockOut("action", ("image/*", "prompt"))
    other = small.inputs(seed=9)  # other pixels and ids, same lengths
    one, two = run(cut)[0], run(cut, inputs=other)[0]
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - plain_actions()).max() > 1e-2
    shorter = small.inputs(lengths=(2, 5), seed=9)  # only the positions of the actions move
    edits = resolve_edits([Nothing()] * (COUNT - 1) + [cut], _streams_of(shorter), cover="all")
    found = many(edits, None, small.params(), shorter, small.noise())[-1]
    np.testing.assert_allclose(found, one, atol=1e-5)


def _streams_of(inputs):
    return [
        {
            name: type(stream)(
                layouts(
                    small.CONFIG,
                    small.CONFIG.cameras,
                    *(
                        np.asarray(x)[item]
                        for x in (inputs.image_mask, inputs.tokens, inputs.token_mask)
                    ),
                )[name],
                stream.num_layers,
                stream.num_heads,
                stream.num_denoise,
            )
            for name, stream in streams()[item].items()
        }
        for item in range(2)
    ]


def test_steps_and_heads_are_told_apart():
    """Cutting at every step is not cutting at one, and parts add up to the whole."""
    cut = functools.partial(KnockOut, "action", "image/wrist", renormalise=False)
    heads = range(small.SIZES.heads)
    found = run(
        cut(),
        *(cut(denoise=(step,)) for step in range(STEPS)),
        Together(tuple(cut(denoise=(step,)) for step in range(STEPS))),
        Together(tuple(cut(heads=(head,)) for head in heads)),
        ScaleValues("image/wrist", 0.0, "action"),
    )
    for one in range(STEPS):
        assert np.abs(found[1 + one] - found[0]).max() > 1e-4
        assert np.abs(found[1 + one] - plain_actions()).max() > 1e-4
    for same in found[1 + STEPS :]:
        np.testing.assert_array_equal(same, found[0])


def test_what_is_captured_is_what_was_used():
    """Mass of a removed group is 0 and the rows still sum to 1, only where it was removed."""
    plan = resolve(Selection.parse("layers=all;reduce=full,group_mass;dtype=float32"), streams()[0])
    edits = edits_of(
        KnockOut("action", "image/wrist", layers=(1,), denoise=(2,)),
        ScaleValues("image/base", 0.5, "action", layers=(1,), denoise=(2,)),
    )

    @jax.jit
    def both(edits, params, inputs, noise):
        def one(edit, params, inputs, noise):
            return intervened(watched)(edit, params, inputs, noise)

        def captured(edit):
            return capture(functools.partial(one, edit), plan)(params, inputs, noise)[1]

        return jax.vmap(captured)(edits)

    maps = both(edits[:3], small.params(), small.inputs(), small.noise())
    names = plan.streams["suffix"].key_groups
    mass = np.asarray(maps["suffix"]["group_mass"])  # n, b, s, l, h, q, group
    wrist, base = names.index("image/wrist"), names.index("image/base")
    np.testing.assert_allclose(mass[0].sum(-1), 1.0, atol=1e-5)
    assert not mass[0, :, 2, 1, ..., wrist].any()
    assert np.all(mass[0, :, :2, ..., wrist] > 0) and np.all(mass[0, :, 2, 0, ..., wrist] > 0)
    full = np.asarray(maps["suffix"]["full"])
    np.testing.assert_array_equal(full[0, :, :2], full[2, :, :2])
    # Scaled, not renormalised: exactly half where it acts, the rest of the row as it was.
    half = mass[1, :, 2, 1, ..., base]
    np.testing.assert_allclose(half, mass[2, :, 2, 1, ..., base] / 2, atol=1e-6)
    np.testing.assert_allclose(mass[1, :, 2, 1].sum(-1) + half, 1.0, atol=1e-5)


def test_64_at_once_are_64_single_calls_and_everything_compiled_once():
    parts = [
        KnockOut("action", key, layers=(layer,), denoise=(step,))
        for key in ("image/base", "image/wrist", "text", "action")
        for layer in range(small.SIZES.depth)
        for step in range(STEPS)
    ]
    parts += [RemoveKeys("image/*"), ScaleValues("text", 1.5), Steer("action", "text", 2.0)]
    parts += [AblateHeads(heads=(head,)) for head in range(small.SIZES.heads)]
    edits = edits_of(*parts)
    arguments = (small.params(), small.inputs(), small.noise())
    found = np.asarray(many(edits, None, *arguments))
    programs = many._cache_size()
    many(edits_of(Steer("action", "text", 1.0)), None, *arguments)
    single = jax.jit(intervened(act))
    for number in range(COUNT):
        np.testing.assert_allclose(found[number], single(edits[number], *arguments), atol=1e-5)
    assert single._cache_size() == 1
    assert many._cache_size() == programs
    assert len({found[number].tobytes() for number in range(len(parts))}) == len(parts)


def other_inputs():
    """A counterfactual: other images and prompt of the same lengths; the noise is shared."""
    return small.inputs(seed=5)


@functools.cache
def donor(activations=("attention_out", "mlp_out", "residual", "keys", "values")):
    wanted = {"prefix": activations, "suffix": ("attention_out", "residual")}
    run = jax.jit(donate(watched, streams()[0], wanted))
    result, made = run(small.params(), other_inputs(), small.noise())
    return np.asarray(result.actions), made


def test_patching_everything_is_the_donor_run():
    theirs, made = donor()
    everything = [
        Patch(activation="attention_out", streams=("suffix",)),
        Patch(activation="residual", streams=("suffix",), layers=(LAST,)),
        Together(tuple(Patch(activation=a, streams=("prefix",)) for a in ("keys", "values"))),
        Nothing(),
    ]
    edits = resolve_edits(everything, streams())
    into_clean = many(edits, made, small.params(), small.inputs(), small.noise())
    into_itself = many(edits, made, small.params(), other_inputs(), small.noise())
    # In the same program the donor's run and the patched run are equal to the bit.
    np.testing.assert_array_equal(into_clean[:3], into_itself[:3])
    for patched in into_clean[:3]:
        np.testing.assert_allclose(patched, theirs, atol=5e-6)
    np.testing.assert_allclose(into_clean[3], plain_actions(), atol=5e-6)
    assert np.abs(theirs - plain_actions()).max() > 1e-2


def test_a_sweep_over_layers_and_steps_finds_where_the_difference_enters():
    theirs, made = donor()
    source = streams()[0]["suffix"]
    edits = resolve_edits(patch_sweep("suffix", source, "residual"), streams())
    out = sweep(act, chunk=4)(edits, made, small.params(), small.inputs(), small.noise())
    grid = np.asarray(out).reshape(source.num_layers, source.num_denoise, *out.shape[1:])
    moved = np.abs(grid - plain_actions()).max(axis=(2, 3, 4))
    assert moved.shape == (2, STEPS) and np.all(moved > 1e-5)
    # One step of three leaves two thirds of the way to the recipient.
    assert np.abs(grid[LAST, -1] - theirs).max() > 1e-3


def test_guidance_goes_from_one_prompt_through_the_other():
    @jax.jit
    def guided(weight):
        return sample(
            small.CONFIG,
            small.params(),
            small.inputs(),
            small.noise(),
            num_steps=STEPS,
            unconditional=other_inputs(),
            guidance=weight,
        )[0].actions

    other = plain(small.params(), other_inputs(), small.noise())
    np.testing.assert_allclose(guided(0.0), other, atol=2e-5)
    np.testing.assert_allclose(guided(1.0), plain_actions(), atol=2e-5)
    assert np.abs(guided(2.0) - plain_actions()).max() > 1e-2


if __name__ == "__main__":
    testing.main()
