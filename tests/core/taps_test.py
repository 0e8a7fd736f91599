"""Taps are held per trace and always released."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from attn_jax.core import taps
from tests import testing


class Nothing:
    def capture(self, site, probs):
        return probs

    def edit_logits(self, site, logits):
        return logits

    def edit_probs(self, site, probs):
        return probs

    def edits(self, site):
        return False


def test_tap_is_current_only_inside_and_nests():
    outer, inner = Nothing(), Nothing()
    assert taps.current_tap() is None
    with taps.tapped(outer):
        with taps.tapped(inner):
            assert taps.current_tap() is inner
        assert taps.current_tap() is outer
    assert taps.current_tap() is None


def test_tap_is_released_after_an_error():
    with pytest.raises(RuntimeError), taps.tapped(Nothing()):
        raise RuntimeError
    assert taps.current_tap() is None


def test_protocol():
    assert isinstance(Nothing(), taps.Tap)
    assert not isinstance(object(), taps.Tap)


class Everything(Nothing):
    def step_inputs(self, num_steps):
        return jnp.arange(num_steps) * 10

    def activation(self, site, name, value):
        return value

    def keep_activation(self, site, name, value):
        return None


def test_only_an_editor_is_told_where_loops_stand():
    assert not isinstance(Nothing(), taps.Editor) and isinstance(Everything(), taps.Editor)
    with taps.tapped(Nothing()):
        assert taps.step_inputs(3) is None and taps.layer_numbers(3) is None
    with taps.at_step(None), taps.at_layer(None):
        assert taps.current_place().step is None and taps.current_place().layer is None


def test_loops_tell_their_place_and_it_ends_with_them():
    def body(total, given):
        with taps.at_step(given[0]), taps.at_layer(given[1]):
            place = taps.current_place()
            return total + place.layer, (place.step, place.inputs)

    with taps.tapped(Everything()):
        xs = (taps.step_inputs(3), taps.layer_numbers(3))
        total, (steps, inputs) = jax.lax.scan(body, 0, xs)
        assert taps.current_place().step is None
    assert int(total) == 3 and steps.tolist() == [0, 1, 2] and inputs.tolist() == [0, 10, 20]


if __name__ == "__main__":
    testing.main()
