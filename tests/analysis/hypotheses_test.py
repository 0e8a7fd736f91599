"""Tests of attn_jax.analysis.hypotheses on runs with planted attention."""

import numpy as np
import pytest

from attn_jax.analysis import hypotheses, tables
from attn_jax.analysis.options import Options
from attn_jax.core.errors import ConfigError, RecordError
from tests import testing
from tests.analysis import runs
from tests.analysis.runs import study_of

BOTH = Options(streams=("prefix:text", "suffix:action"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    runs.write_run(run, drift=0.1)
    runs.write_variants(run)
    return study_of(run)


def test_tables_have_the_documented_columns(study):
    table = hypotheses.run(study, "h1_1", BOTH)
    assert tuple(table.columns) == tables.FRAME_COLUMNS
    assert set(table.hypothesis) == {"h1_1"} and set(table.outcome) == {"success"}
    assert set(table.episode) == {"episode_00000"}
    assert set(table.env_step) == {0, 5, 10} and set(table.layer) == {2, 5, -1}
    assert set(table.metric[table.layer == -1]) == {"visible"}
    assert dict(zip(table.object, table.role, strict=True)) == {
        "red_cube": "target",
        "ball": "distractor",
        "": "",
    }


def test_names_are_checked(study):
    with pytest.raises(ConfigError, match="unknown hypothesis"):
        hypotheses.run(study, "h9", Options())
    with pytest.raises(ConfigError, match="no camera 'left'"):
        hypotheses.run(study, "h1_1", Options(cameras=("left",)))


def test_texts_are_no_lists():
    """Without the type checks of the tests, which would find them first."""
    made = {
        "Options(streams='suffix:action')": "streams is a text",
        "Options(cameras='wrist')": "cameras is a text",
        "Family('a', 'h1_1', 'lift')": "a: metrics is 'lift'",
        "Family('a', 'h1_1', ('lift',), where={'role': 'target'})": "a: where.role is 'target'",
        "Family('a', 'h1_1', ('lift',), reference='one')": "a: reference is 'one'",
    }
    lines = [
        "from attn_jax.analysis.aggregate import Family",
        "from attn_jax.analysis.options import Options",
        "from attn_jax.core.errors import ConfigError",
    ]
    for call in made:
        lines += ["try:", f"    {call}", "except ConfigError as error:", "    print(error)"]
    done = testing.run_python("-c", "\n".join(lines))
    said = done.stdout.splitlines()
    assert len(said) == len(made), done.stderr
    assert all(line.startswith(start) for line, start in zip(said, made.values(), strict=True))


def test_missing_inputs_are_named(tmp_path):
    runs.write_run(tmp_path, only_reduced=True, objects=())
    bare = study_of(tmp_path)
    with pytest.raises(RecordError, match="no object masks"):
        hypotheses.run(bare, "h1_1", BOTH)
    with pytest.raises(RecordError, match="--prompts and --noise_seeds"):
        hypotheses.run(bare, "h2_1", BOTH)
    with pytest.raises(RecordError, match="reduce=head_mean"):
        hypotheses.run(bare, "h3", Options())
    assert len(hypotheses.run(bare, "h4", BOTH))  # needs no masks


def test_reduced_records_are_enough_where_rows_are_not_needed(tmp_path, study):
    runs.write_run(tmp_path, only_reduced=True, drift=0.1)
    less = study_of(tmp_path)
    for name in ("h1_1", "h4", "words", "budget", "layers"):
        options = Options(streams=("prefix:text",)) if name == "words" else BOTH
        one, two = (hypotheses.run(s, name, options) for s in (study, less))
        keys = [c for c in tables.FRAME_COLUMNS if c != "value"]
        one, two = (t.astype({k: str for k in keys}).set_index(keys).value for t in (one, two))
        np.testing.assert_allclose(two.reindex(one.index), one, rtol=2e-3, atol=2e-3, err_msg=name)


if __name__ == "__main__":
    testing.main()
