"""Summaries: labels, sampled numbers, group masses."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from attn_jax.core.canvas import CanvasGeometry
from attn_jax.core.errors import RecordError
from attn_jax.core.record import AttentionRecord
from attn_jax.probe.capture import reduce
from attn_jax.probe.select import Selection, Stream, resolve
from attn_jax.probe.store import RecordWriter
from attn_jax.probe.summary import summarise
from tests import testing

LAYOUT = CanvasGeometry((32, 40), separator=12, patch=16).layout


def maps(seed):
    shape = (1, 2, LAYOUT.length, LAYOUT.length)
    p = np.random.default_rng(seed).random(shape).astype(np.float32)
    return p / p.sum(-1, keepdims=True)


@pytest.fixture
def run(tmp_path):
    text = "layers=all;reduce=group_mass"
    plan = resolve(Selection.parse(text), {"d": Stream(LAYOUT, 1, 2)}).streams["d"]
    with RecordWriter(tmp_path, codec="float32", info={"canvas": 3}) as writer:
        for number in range(5):
            p = maps(number)
            mass = np.asarray(reduce("group_mass", jnp.asarray(p), plan))
            labels = {"layers": (4,), "heads": (0, 1)}
            records = [
                AttentionRecord("d", p[:, None, None], LAYOUT, **labels),
                AttentionRecord(
                    "d",
                    mass[:, None, None],
                    LAYOUT,
                    **labels,
                    reduction="group_mass",
                    key_names=plan.key_groups,
                ),
            ]
            writer.append(records, env_step=number)
    return tmp_path


def test_summary_of_full_maps_and_of_recorded_masses_agree(run):
    (episode,) = summarise(run, sampled_calls=5)["episodes"]
    full, mass = episode["records"]["d"], episode["records"]["d.group_mass"]
    assert full["group_mass"]["4"] == pytest.approx(mass["group_mass"]["4"], abs=1e-6)
    assert sum(full["group_mass"]["4"].values()) == pytest.approx(1, abs=1e-6)
    assert full["row_sum_error"] < 1e-6 and mass["row_sum_error"] < 1e-6
    assert full["codec"] == "float32" and full["bytes"] > mass["bytes"] > 0
    assert episode["calls"] == 5 and episode["info"] == {"canvas": 3} and episode["complete"]
    json.dumps(episode)


def test_axes_are_named(run):
    (episode,) = summarise(run)["episodes"]
    record = episode["records"]["d"]
    assert list(record["keys"]) == ["cls", "frame0", "sep0", "frame1", "sep1", "frame2"]
    assert sum(record["queries"].values()) == LAYOUT.length and record["keys"]["cls"] == 1
    assert episode["sampled_calls"] == [0, 1, 3, 4]


def test_an_episode_without_calls(tmp_path):
    RecordWriter(tmp_path).close()
    (episode,) = summarise(tmp_path)["episodes"]
    assert episode["calls"] == 0 and episode["records"] == {}


def test_no_record(tmp_path):
    with pytest.raises(RecordError, match="no attention record"):
        summarise(tmp_path)


if __name__ == "__main__":
    testing.main()
