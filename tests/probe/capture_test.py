"""Capture under jit: reductions, scans, remat, gradients, and programs that capture nothing."""

import contextlib
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from attn_jax.core import taps
from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.nn import fast_attention
from attn_jax.nn.attention import Attention
from attn_jax.probe.capture import SelectionTap, capture, discover, record_name, reduce, to_records
from attn_jax.probe.codecs import BOUNDS, Encoded, check, encode
from attn_jax.probe.select import Selection, Stream, resolve
from tests import testing

BATCH, TOKENS, WIDTH, HEADS, LAYERS, STEPS = 2, 8, 12, 3, 4, 5
LAYOUT = TokenLayout(
    TOKENS,
    (
        TokenGroup("image", (0, 1, 2, 3), grid=(2, 2)),
        TokenGroup("task", (4, 5)),
        TokenGroup("pad", (6,), valid=False),
        TokenGroup("action", (7,)),
    ),
)
VALID = jnp.asarray([True] * 6 + [False, True])[None, None, None, :]


class Loop(nn.Module):
    """Layers in a Python loop."""

    stream: str = "encoder"
    same_number: bool = False

    @nn.compact
    def __call__(self, x):
        for n in range(LAYERS):
            layer = 0 if self.same_number else n
            x = x + Attention(HEADS, 4, stream=self.stream, layer=layer, name=f"a{n}")(
                x, mask=VALID
            )
        return x


class ScanLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + Attention(HEADS, 4, stream="suffix", name="a")(x, mask=VALID), None


class Scanned(nn.Module):
    """The same layers as one rematerialised scan."""

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            nn.remat(ScanLayer),
            variable_axes={"params": 0, "attn": 0},
            split_rngs={"params": True},
            length=LAYERS,
        )
        return scan(name="layers")(x, None)[0]


def watched(module):
    return lambda params, x: module.apply({"params": params}, x, mutable=["attn"])


def denoised(module):
    def apply(params, x):
        def step(x, _):
            out, variables = module.apply({"params": params}, x, mutable=["attn"])
            return 0.2 * out, variables  # small enough that rounding does not grow over the steps

        return jax.lax.scan(step, x, None, length=STEPS)

    return apply


@pytest.fixture(scope="module")
def x():
    return jax.random.normal(jax.random.key(1), (BATCH, TOKENS, WIDTH))


@pytest.fixture(scope="module")
def loop(x):
    return Loop().init(jax.random.key(0), x)["params"]


@pytest.fixture(scope="module")
def scanned(loop):
    """The parameters of `loop`, stacked for `Scanned`."""
    layers = [loop[f"a{n}"] for n in range(LAYERS)]
    return {"layers": {"a": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}}


def loop_maps(params, x):
    """Reference without the probe: every full map, (b, layer, h, q, k)."""
    _, variables = Loop().apply({"params": params}, x, mutable=["attn"])
    return np.stack([variables["attn"][f"a{n}"]["probs"] for n in range(LAYERS)], axis=1)


def planned(apply_fn, stream, text, params, x):
    selection = Selection.parse(text)
    if "dtype" not in text:  # exact, so that maps can be compared
        selection = dataclasses.replace(selection, dtype="float32")
    return resolve(selection, discover(apply_fn, {stream: LAYOUT}, params, x))


def test_discover_counts_loops_and_scans(loop, scanned, x):
    found = discover(watched(Loop()), {"encoder": LAYOUT}, loop, x)["encoder"]
    assert (found.num_layers, found.num_heads, found.num_denoise) == (LAYERS, HEADS, 1)
    found = discover(denoised(Scanned()), {"suffix": LAYOUT}, scanned, x)["suffix"]
    assert (found.num_layers, found.num_heads, found.num_denoise) == (LAYERS, HEADS, STEPS)
    shapes = jax.eval_shape(lambda: (scanned, x))
    found = discover(watched(Scanned()), {"suffix": LAYOUT}, *shapes)["suffix"]
    assert (found.num_layers, found.num_denoise) == (LAYERS, 1)


def test_python_loop_gives_the_sown_maps(loop, x):
    apply_fn = watched(Loop())
    plan = planned(apply_fn, "encoder", "all", loop, x)
    _, maps = jax.jit(capture(apply_fn, plan))(loop, x)
    assert maps["encoder"]["full"].shape == (BATCH, 1, LAYERS, HEADS, TOKENS, TOKENS)
    np.testing.assert_allclose(maps["encoder"]["full"][:, 0], loop_maps(loop, x), atol=1e-6)
    np.testing.assert_allclose(maps["encoder"]["full"].sum(-1), 1.0, atol=1e-5)
    assert (np.asarray(maps["encoder"]["full"])[..., 6] == 0).all()  # the masked key


def test_maps_are_rounded_where_the_selection_says_so(loop, x):
    apply_fn = watched(Loop())
    plan = planned(apply_fn, "encoder", "layers=all;reduce=full,entropy;dtype=float16", loop, x)
    _, maps = jax.jit(capture(apply_fn, plan))(loop, x)
    full = maps["encoder"]["full"]
    assert full.dtype == jnp.float16 and maps["encoder"]["entropy"].dtype == jnp.float32
    np.testing.assert_allclose(full[:, 0], loop_maps(loop, x), rtol=1e-3, atol=1e-7)


def test_outputs_are_the_same_with_and_without_capture(loop, scanned, x):
    for module, params, stream in ((Loop(), loop, "encoder"), (Scanned(), scanned, "suffix")):
        apply_fn = watched(module)
        plan = planned(apply_fn, stream, "layers=last:2", params, x)
        on, _ = jax.jit(capture(apply_fn, plan))(params, 0.1 * x)
        off = jax.jit(module.apply)({"params": params}, 0.1 * x)
        np.testing.assert_allclose(on, off, atol=1e-6)


def test_scan_and_remat_equal_the_loop(loop, scanned, x):
    apply_fn = watched(Scanned())
    plan = planned(apply_fn, "suffix", "layers=1,3;heads=0,2;reduce=full", scanned, x)
    _, maps = jax.jit(capture(apply_fn, plan))(scanned, x)
    expected = loop_maps(loop, x)[:, [1, 3]][:, :, [0, 2]]
    np.testing.assert_allclose(maps["suffix"]["full"][:, 0], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["loop", "scan"])
def test_denoising_scan_gives_the_denoise_axis(kind, loop, scanned, x):
    module, params, stream = (
        (Loop("suffix"), loop, "suffix") if kind == "loop" else (Scanned(), scanned, "suffix")
    )
    apply_fn = denoised(module)
    plan = planned(apply_fn, stream, "layers=2;denoise=0,3;reduce=full", params, x)
    _, maps = jax.jit(capture(apply_fn, plan))(params, x)
    assert maps[stream]["full"].shape == (BATCH, 2, 1, HEADS, TOKENS, TOKENS)
    state = x
    for step in range(4):
        if step in (0, 3):
            got = maps[stream]["full"][:, (0, 3).index(step), 0]
            np.testing.assert_allclose(got, loop_maps(loop, state)[:, 2], atol=1e-5)
        state = 0.2 * Loop().apply({"params": loop}, state)


def random_maps(keys=VALID):
    logits = jax.random.normal(jax.random.key(3), (BATCH, HEADS, TOKENS, TOKENS)) * 3
    return jax.nn.softmax(jnp.where(keys, logits, -1e30), axis=-1)


def stream_plan(text):
    return resolve(Selection.parse(text), {"s": Stream(LAYOUT, 1, HEADS)}).streams["s"]


def test_group_mass_sums_named_keys_and_to_one():
    probs = random_maps()
    mass = reduce(
        "group_mass", probs, stream_plan("layers=all;queries=task,action;reduce=group_mass")
    )
    rows = np.asarray(probs)[:, :, [4, 5, 7]]
    expected = np.stack(
        [rows[..., :4].sum(-1), rows[..., 4:6].sum(-1), rows[..., 6], rows[..., 7]], axis=-1
    )
    np.testing.assert_allclose(mass, expected, atol=1e-6)
    np.testing.assert_allclose(mass.sum(-1), 1.0, atol=1e-5)


def test_selected_group_mass_does_not_depend_on_what_else_is_selected():
    probs = random_maps()
    both = reduce("group_mass", probs, stream_plan("layers=all;reduce=group_mass"))
    one = reduce("group_mass", probs, stream_plan("layers=all;keys=task;reduce=group_mass"))
    np.testing.assert_array_equal(one[..., 0], both[..., 1])


def test_entropy_is_that_of_the_renormalised_group():
    probs = random_maps()
    got = np.asarray(reduce("entropy", probs, stream_plan("layers=all;reduce=entropy")))
    rows = np.asarray(probs, np.float64)
    np.testing.assert_allclose(got[..., 0], scipy.stats.entropy(rows[..., :4], axis=-1), atol=1e-5)
    np.testing.assert_allclose(got[..., 1], scipy.stats.entropy(rows[..., 4:6], axis=-1), atol=1e-5)
    np.testing.assert_allclose(got[..., -1], scipy.stats.entropy(rows, axis=-1), atol=1e-5)
    assert np.isnan(got[..., 2]).all(), "a group without mass has no entropy"
    np.testing.assert_allclose(got[..., 3], 0.0, atol=1e-6)


def test_entropy_of_one_hot_and_uniform_rows():
    plan = stream_plan("layers=all;reduce=entropy")
    one_hot = jnp.zeros((1, HEADS, TOKENS, TOKENS)).at[..., 2].set(1.0)
    uniform = jnp.full((1, HEADS, TOKENS, TOKENS), 1 / TOKENS)
    assert float(reduce("entropy", one_hot, plan)[0, 0, 0, 0]) == 0.0
    np.testing.assert_allclose(reduce("entropy", uniform, plan)[..., 0], np.log(4), rtol=1e-6)
    np.testing.assert_allclose(reduce("entropy", uniform, plan)[..., -1], np.log(8), rtol=1e-6)


def test_patch_map_averages_query_groups_on_image_keys():
    probs = random_maps()
    got = reduce("patch_map", probs, stream_plan("layers=all;queries=task,action;reduce=patch_map"))
    expected = np.stack(
        [np.asarray(probs)[:, :, 4:6, :4].mean(2), np.asarray(probs)[:, :, 7, :4]], axis=2
    )
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_head_mean_averages_the_kept_heads():
    probs = random_maps()
    got = reduce("head_mean", probs, stream_plan("layers=all;heads=0,2;reduce=head_mean"))
    np.testing.assert_allclose(got[:, 0], np.asarray(probs)[:, [0, 2]].mean(1), atol=1e-6)


def test_records_are_labelled_and_answer_by_name(loop, x):
    apply_fn = watched(Loop())
    text = (
        "layers=0,3;heads=1;queries=task,action;reduce=full,head_mean,patch_map,group_mass,entropy"
    )
    plan = planned(apply_fn, "encoder", text, loop, x)
    _, maps = jax.jit(capture(apply_fn, plan))(loop, x)
    records = to_records(maps, plan)
    assert len(records) == BATCH
    assert set(records[0]) == {
        record_name("encoder", r)
        for r in ("full", "head_mean", "patch_map", "group_mass", "entropy")
    }
    reference = loop_maps(loop, x)[1][[0, 3], 1]
    full = records[1]["encoder"]
    assert (full.layers, full.heads, full.complete_rows) == ((0, 3), (1,), True)
    image = full.select(query="action", key="image")
    assert image.shape == (1, 1, 2, 1, 1, 2, 2)
    np.testing.assert_allclose(image.reshape(2, 4), reference[:, 7, :4], atol=1e-6)
    patch = records[1]["encoder.patch_map"].select(query="action", key="image")
    np.testing.assert_allclose(patch.reshape(2, 4), reference[:, 7, :4], atol=1e-6)
    mass = records[1]["encoder.group_mass"].select(query="action", key="task")
    np.testing.assert_allclose(mass.ravel(), reference[:, 7, 4:6].sum(-1), atol=1e-6)
    assert records[0]["encoder.entropy"].key_names[-1] == "all"
    assert records[0]["encoder.head_mean"].heads == ()


@pytest.mark.parametrize("dtype", ["float32", "float16", "u8row"])
@pytest.mark.parametrize("on_host", [False, True])
def test_layers_that_leave_apart_make_the_same_records(loop, x, dtype, on_host):
    apply_fn = watched(Loop())
    text = f"layers=0,3;reduce=full,patch_map,group_mass;dtype={dtype}"
    plan = planned(apply_fn, "encoder", text, loop, x)

    def records(stack: bool):
        run = capture(apply_fn, plan, stack=stack)
        maps = jax.jit(lambda *args: encode(run(*args)[1], plan))(loop, x)
        assert isinstance(maps["encoder"]["full"], tuple) != stack
        if on_host:
            whole = lambda leaf: isinstance(leaf, Encoded)  # noqa: E731
            maps = jax.tree.map(lambda coded: coded.on_host(), maps, is_leaf=whole)
        return to_records(maps, plan)

    for stacked, apart in zip(records(True), records(False), strict=True):
        for name, record in stacked.items():
            assert apart[name].layers == record.layers
            np.testing.assert_array_equal(apart[name].values[:], record.values[:])
            np.testing.assert_array_equal(apart[name].values.stats, record.values.stats)


@pytest.mark.parametrize("dtype", ["float32", "float16", "u8row"])
def test_the_error_of_a_captured_record_is_stated(loop, x, dtype):
    apply_fn = watched(Loop())

    def captured(dtype, encoded):
        plan = planned(apply_fn, "encoder", f"layers=0,3;reduce=full;dtype={dtype}", loop, x)
        run = capture(apply_fn, plan)
        pack = (lambda maps: encode(maps, plan)) if encoded else (lambda maps: maps)
        return jax.jit(lambda *args: pack(run(*args)[1]))(loop, x)["encoder"]["full"]

    exact = np.asarray(captured("float32", False))
    coded = captured(dtype, True).on_host()
    made = np.abs(np.asarray(coded) - exact).max()
    assert (made > 0) == (dtype != "float32")
    assert made <= check(coded, "x") + 1e-7 and check(coded, "x") <= BOUNDS[dtype].max_abs


class Quiet(nn.Module):
    """`Attention` as it would be written without any probe."""

    @nn.compact
    def __call__(self, x):
        def project(name):
            return nn.DenseGeneral(
                (HEADS, 4), kernel_init=nn.initializers.xavier_uniform(), name=name
            )(x)

        q, k, v = project("query"), project("key"), project("value")
        out = fast_attention.attend(q, k, v, 4**-0.5)
        return nn.DenseGeneral(
            x.shape[-1], axis=(-2, -1), kernel_init=nn.initializers.xavier_uniform(), name="out"
        )(out)


def test_capture_off_is_the_program_without_a_probe(x):
    probed, quiet = Attention(HEADS, 4), Quiet()
    params = quiet.init(jax.random.key(0), x)

    def text(module, tap=None):
        def program(params, x):
            with contextlib.nullcontext() if tap is None else taps.tapped(tap):
                return module.apply(params, x)

        return jax.jit(program).lower(params, x).as_text()

    assert text(probed) == text(quiet)
    plan = resolve(Selection.parse("all"), {"attention": Stream(LAYOUT, 1, HEADS)})
    assert text(probed, SelectionTap(plan)) == text(quiet), "a tap alone captures nothing"
    opened = jax.jit(lambda p, x: probed.apply(p, x, mutable=["attn"])).lower(params, x).as_text()
    assert opened != text(quiet)


def test_only_what_was_asked_for_leaves_the_program(loop, x):
    apply_fn = watched(Loop())
    plan = planned(apply_fn, "encoder", "layers=last:1;heads=0;reduce=group_mass", loop, x)
    shapes = jax.eval_shape(capture(apply_fn, plan), loop, x)[1]
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == {
        "encoder": {"group_mass": (BATCH, 1, 1, 1, TOKENS, len(LAYOUT.groups))}
    }


def test_compiles_once(loop, x):
    apply_fn = watched(Loop())
    plan = planned(apply_fn, "encoder", "all", loop, x)
    traces = []

    def counted(params, x):
        traces.append(1)
        return capture(apply_fn, plan)(params, x)

    run = jax.jit(counted)
    for scale in (1.0, 2.0, 3.0):
        run(loop, x * scale)
    assert len(traces) == 1 and run._cache_size() == 1


def test_gradient_flows_through_captured_attention(loop, x):
    apply_fn = watched(Loop())
    text = "layers=last:1;queries=action;keys=image;reduce=group_mass,entropy"
    plan = planned(apply_fn, "encoder", text, loop, x)
    run = capture(apply_fn, plan)

    def mass(x):
        return run(loop, x)[1]["encoder"]["group_mass"].sum()

    def entropy(x):
        return jnp.nansum(run(loop, x)[1]["encoder"]["entropy"])

    direction = jax.random.normal(jax.random.key(5), x.shape)
    for fn in (mass, entropy):
        slope = jnp.vdot(jax.jit(jax.grad(fn))(x), direction)
        step = 1e-2
        measured = (fn(x + step * direction) - fn(x - step * direction)) / (2 * step)
        assert abs(slope) > 1e-4
        np.testing.assert_allclose(slope, measured, rtol=2e-2)


def test_inner_jit_is_traced_again_under_the_tap(loop, x):
    inner = jax.jit(watched(Loop()))
    inner(loop, x)  # cached without a tap
    plan = planned(inner, "encoder", "layers=0;reduce=group_mass", loop, x)
    _, maps = jax.jit(capture(inner, plan))(loop, x)
    assert maps["encoder"]["group_mass"].shape[-1] == len(LAYOUT.groups)
    _, variables = inner(loop, x)
    assert variables["attn"]["a0"]["probs"].shape == (BATCH, HEADS, TOKENS, TOKENS)


def test_refuses_a_program_that_sows_nothing(loop, x):
    def closed(params, x):
        return Loop().apply({"params": params}, x), {}

    with pytest.raises(RecordError, match=r"mutable=\['attn'\]"):
        discover(closed, {"encoder": LAYOUT}, loop, x)
    plan = planned(watched(Loop()), "encoder", "all", loop, x)
    with pytest.raises(RecordError, match="layer 0 sowed no attention"):
        capture(closed, plan)(loop, x)


def test_refuses_layers_with_the_same_number(loop, x):
    with pytest.raises(RecordError, match="two attention layers"):
        discover(watched(Loop(same_number=True)), {"encoder": LAYOUT}, loop, x)


def test_refuses_maps_that_do_not_fit_the_layout(loop, x):
    longer = TokenLayout(TOKENS + 1, (TokenGroup("task", tuple(range(TOKENS + 1))),))
    plan = resolve(Selection.parse("all"), {"encoder": Stream(longer, LAYERS, HEADS)})
    with pytest.raises(RecordError, match=r"the layout says \(3, 9, 9\)"):
        capture(watched(Loop()), plan)(loop, x)


def test_tap_edits_nothing(loop, x):
    tap = SelectionTap(planned(watched(Loop()), "encoder", "all", loop, x))
    assert isinstance(tap, taps.Tap)
    site = taps.Site("encoder", 0)
    assert not tap.edits(site)
    assert tap.capture(taps.Site("other", 0), random_maps()) is None


if __name__ == "__main__":
    testing.main()
