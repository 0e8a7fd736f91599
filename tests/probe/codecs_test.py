"""Codecs: bounds that hold, exactness where promised, refusals, host and device alike."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_jax.core.errors import RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.probe import codecs
from attn_jax.probe.capture import to_records
from attn_jax.probe.select import Selection, Stream, resolve
from tests import testing

SHAPE = (2, 1, 2, 2, 3, 7)
ROWS = hnp.arrays(np.float32, (1, 1, 1, 1, 3, 6), elements=st.floats(0, 1, width=32))


def rows(seed=0, shape=SHAPE):
    logits = np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 4
    weights = np.exp(logits)
    return weights / weights.sum(axis=-1, keepdims=True)


def formula(codec, p):
    """The bound written in the attributes, as numbers."""
    if codec == "float32":
        return np.zeros_like(p)
    if codec == "float16":
        return np.maximum(p * 2.0**-11, 2.0**-25)
    scale = p.max(axis=-1, keepdims=True)
    share = np.divide(p, scale, out=np.zeros_like(p), where=scale > 0)
    return scale * (np.sqrt(share) / 255 + 1 / 260100)


@pytest.mark.parametrize("codec", codecs.CODECS)
@given(p=ROWS)
def test_error_is_within_the_stated_bound(codec, p):
    encoded = codecs.encode_array(p, codec)
    error = np.abs(np.asarray(encoded) - p)
    assert (error <= formula(codec, p.astype(np.float64)) * (1 + 1e-4) + 1e-9).all()
    assert error.max() <= codecs.BOUNDS[codec].max_abs
    said = codecs.check(encoded, "x")
    assert error.max() == said <= codecs.BOUNDS[codec].max_abs
    tolerance = codecs.row_sum_tolerance(encoded.data, encoded.scale, codec)
    moved = np.abs(np.asarray(encoded, np.float64).sum(-1) - p.astype(np.float64).sum(-1))
    assert (moved <= tolerance).all()


def test_bounds_are_not_loose():
    p = rows(shape=(1, 1, 1, 4, 200, 60))
    for codec in ("float16", "u8row"):
        error = np.abs(np.asarray(codecs.encode_array(p, codec)) - p)
        assert (error / formula(codec, p)).max() > 0.9


def test_row_scale_keeps_zeros_and_row_maxima_exactly():
    p = rows()
    p[..., 2] = 0
    decoded = np.asarray(codecs.encode_array(p, "u8row"))
    assert (decoded[..., 2] == 0).all()
    np.testing.assert_array_equal(decoded.max(-1), p.max(-1))


def test_float32_is_lossless():
    p = rows()
    np.testing.assert_array_equal(np.asarray(codecs.encode_array(p, "float32")), p)


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_inside_the_program_equals_numpy(codec):
    p = rows()
    index = (0, 1, 3, 6)
    host = codecs.encode_array(p, codec, key_index=index)
    device = jax.jit(lambda p: codecs.encode_array(p, codec, key_index=index))(p).on_host()
    assert device.data.dtype == host.data.dtype and device.key_index == index
    # XLA may round a square root or a quotient the other way at a tie between two codes.
    apart = np.abs(device.data.astype(np.float32) - host.data.astype(np.float32))
    assert (apart > 0).mean() < 0.01 and apart.max() <= (1 if codec == "u8row" else 0)
    np.testing.assert_allclose(device.stats, host.stats, atol=1e-6)
    # By the definition, call by call; the calls differ.
    kept = p[..., list(index)]
    errors = np.abs(codecs.decode(device.data, device.scale, codec) - kept).max((1, 2, 3, 4, 5))
    np.testing.assert_allclose(device.stats[:, 1], errors, atol=1e-7)
    assert (errors == 0).all() if codec == "float32" else errors[0] != errors[1] and errors.all()


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_halves_lose_no_more_and_state_what_they_may_have_lost(as_array):
    p = rows()
    halves = p.astype(np.float16)
    encoded = codecs.encode_array(as_array(halves), "float16").on_host()
    np.testing.assert_array_equal(encoded.data, halves)
    said = codecs.check(encoded, "x")
    assert np.abs(halves - p).max() <= said <= codecs.BOUNDS["float16"].max_abs
    # Between 1/2 and 1 halves are 2 ** -11 apart.
    assert halves.max() >= 0.5 and said == 2.0**-12
    relevance = codecs.encode_array(np.full(SHAPE, -3.0, np.float16), "float16")
    assert codecs.check(relevance, "x", signed=True) == 2.0**-10
    lossless = codecs.encode_array(as_array(halves), "float32").on_host()
    assert codecs.check(lossless, "x") == 0


@pytest.mark.parametrize("codec", codecs.CODECS)
@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "NaN"), (np.inf, "infinite"), (-0.1, "-0.1"), (1.01, "1.01")]
)
def test_refuses_what_is_no_probability(codec, on_device, value, said):
    p = rows()
    p[1, 0, 1, 0, 2, 3] = value
    encoded = codecs.encode_array(jnp.asarray(p) if on_device else p, codec).on_host()
    with pytest.raises(RecordError, match=f"suffix: .*{said}"):
        codecs.check(encoded, "suffix")


def test_undefined_entropies_are_kept_but_other_faults_are_not():
    h = rows()
    h[0, 0, 0, 0, 0, 0] = np.nan
    h[0, 0, 0, 0, 0, 1] = 4.2
    encoded = codecs.encode_array(h, "float32", undefined=True)
    assert codecs.check(encoded, "h", probability=False) == 0
    np.testing.assert_array_equal(np.asarray(encoded), h)
    h[0, 0, 0, 0, 0, 1] = -1
    with pytest.raises(RecordError, match="-1"):
        codecs.check(codecs.encode_array(h, "float32", undefined=True), "h", probability=False)


def test_left_out_keys_come_back_as_exact_zeros():
    p = rows()
    p[..., [1, 4]] = 0
    encoded = codecs.encode_array(p, "float32", key_index=(0, 2, 3, 5, 6))
    assert encoded.data.shape[-1] == 5 and encoded.shape == SHAPE
    np.testing.assert_array_equal(np.asarray(encoded), p)
    np.testing.assert_array_equal(encoded[1, ..., 2:5], p[1, ..., 2:5])


def test_refuses_to_leave_out_keys_with_mass_except_in_meaningless_rows():
    p = rows()
    p[..., :2, 6] = 0
    index = tuple(range(6))
    loses = codecs.encode_array(p, "float16", key_index=index)
    with pytest.raises(RecordError, match="left out"):
        codecs.check(loses, "x")
    fine = codecs.encode_array(p, "float16", key_index=index, checked_queries=(0, 1))
    assert codecs.check(fine, "x") <= codecs.BOUNDS["float16"].max_abs


def test_unknown_codec():
    with pytest.raises(RecordError, match="float16, float32, u8row"):
        codecs.encode_array(rows(), "bfloat16")


def test_encode_follows_the_plan_and_items_share_no_memory():
    layout = TokenLayout(
        7,
        (
            TokenGroup("image", (0, 1, 2, 3), grid=(2, 2)),
            TokenGroup("pad", (4,), valid=False),
            TokenGroup("action", (5, 6)),
        ),
    )
    text = "layers=all;reduce=full,group_mass,entropy;dtype=u8row;valid_keys_only"
    plan = resolve(Selection.parse(text), {"s": Stream(layout, 2, 2)})
    p = rows(shape=(3, 1, 2, 2, 7, 7))
    p[..., 4] = 0
    p /= p.sum(-1, keepdims=True)
    captured = {"s": {"full": p, "group_mass": p[..., :3], "entropy": p[..., :4] * np.nan}}
    coded = jax.jit(lambda maps: codecs.encode(maps, plan))(captured)
    assert coded["s"]["full"].data.dtype == jnp.uint8 and coded["s"]["full"].data.shape[-1] == 6
    assert coded["s"]["group_mass"].codec == coded["s"]["entropy"].codec == "float32"
    host = {"s": {name: maps.on_host() for name, maps in coded["s"].items()}}
    records = to_records(host, plan)
    values = records[1]["s"].values
    assert values.shape == (1, 1, 2, 2, 7, 7) and values.data.base is None
    np.testing.assert_allclose(np.asarray(values)[0], p[1], atol=codecs.BOUNDS["u8row"].max_abs)
    assert records[1]["s"].select(query="action", key="image").shape == (1, 1, 2, 2, 2, 2, 2)


if __name__ == "__main__":
    testing.main()
