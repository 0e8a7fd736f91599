"""Schema: folders of a run, labels as JSON."""

import json

import numpy as np
import pytest

from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.probe import arrays, schema
from attn_jax.probe.codecs import encode_array
from attn_jax.probe.select import Selection
from tests import testing

LAYOUT = TokenLayout(3, (TokenGroup("task", (0, 1, 2)),))
VALUES = np.full((1, 1, 1, 1, 3, 3), 1 / 3, np.float32)


def test_start_run_keeps_what_is_there(tmp_path):
    run = schema.start_run(tmp_path / "run", selection=Selection(), provenance={"seed": 1})
    schema.start_run(run, provenance={"seed": 2})
    data = json.loads((run / "run.json").read_text())
    assert data["provenance"] == {"seed": 1} and data["schema_version"] == schema.SCHEMA_VERSION
    assert data["selection"]["layers"] == "last:2"


def test_facts_that_earlier_runs_lack_are_compared_where_they_are_known(tmp_path):
    def again(name, **facts):
        schema.continue_run(tmp_path / name, ("seed",), if_known=("weights",), provenance=facts)

    again("old", seed=1)
    again("old", seed=1, weights="a")
    again("new", seed=1, weights="a")
    again("new", seed=1, weights="a")
    for facts, message in (
        ({"seed": 1, "weights": "b"}, "another weights: a, now b"),
        ({"seed": 2, "weights": "a"}, "another seed: 1, now 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            again("new", **facts)


def test_episodes_of_a_run_are_in_order(tmp_path):
    folders = [schema.episode_folder(tmp_path, n) for n in (10, 2)]
    for folder in folders:
        folder.mkdir(parents=True)
    assert schema.episodes(tmp_path) == (folders[1], folders[0])
    (folders[0] / "meta.json").write_text("{}")
    assert schema.episodes(folders[0]) == (folders[0],)


def test_a_group_on_disk_gives_the_record_back(tmp_path):
    coded = encode_array(VALUES, "u8row")
    record = AttentionRecord("s", VALUES, LAYOUT, (4,), (2,), complete_rows=False)
    entry = json.loads(json.dumps(schema.entry_of(record, coded)))
    for part, data in (("values", coded.data), ("scale", coded.scale)):
        array = arrays.create(tmp_path / part, str(data.dtype), data.shape[1:])
        arrays.write_call(tmp_path / part, array, 0, data[0])
    schema.write_group(tmp_path, entry)
    opened = schema.open_record(tmp_path, entry, LAYOUT, 1)
    assert (opened.layers, opened.heads, opened.complete_rows) == ((4,), (2,), False)
    np.testing.assert_array_equal(np.asarray(opened.values), VALUES)
    attributes = arrays.read_json(tmp_path / "values" / "zarr.json")["attributes"]
    assert attributes["codec"]["bound"].startswith("s * (sqrt(p / s) / 255")
    with pytest.raises(RecordError, match="65 calls are committed, the array has 64"):
        schema.open_record(tmp_path, entry, LAYOUT, 65)


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("info",), "x", "field 'info'"),
        (("arrays",), [], "field 'arrays'"),
        (("arrays", "s"), None, "label 'stream' of record 's'"),
        (("arrays", "s", "reduction"), None, "label 'reduction'"),
        (("arrays", "s", "layers"), [None], "label 'layers'"),
        (("arrays", "s", "complete_rows"), 1, "label 'complete_rows'"),
        (("arrays", "s", "layout"), 1, "label 'layout'"),
        (("arrays", "s", "codec", "name"), [], "label 'codec'"),
        (("arrays", "s", "codec"), {"name": "u8row"}, "label 'codec'"),
        (("schema_version",), 2, "schema version 2 is not 1"),
    ],
)
def test_malformed_metadata_are_named(tmp_path, place, value, named):
    record = AttentionRecord("s", VALUES, LAYOUT, (4,), (2,), complete_rows=False)
    entry = schema.entry_of(record, encode_array(VALUES, "u8row")) | {"layout": 0}
    meta = schema.new_meta(0, {}) | {"arrays": {"s": entry}, "layouts": [LAYOUT.to_json()]}
    meta = json.loads(json.dumps(meta))
    arrays.write_json(tmp_path / schema.META, meta)
    assert schema.read_meta(tmp_path, begun=True) == meta
    inner = meta
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    arrays.write_json(tmp_path / schema.META, meta)
    with pytest.raises(RecordError, match=named):
        schema.read_meta(tmp_path, begun=True)


if __name__ == "__main__":
    testing.main()
