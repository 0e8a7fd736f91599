"""Tests of attn_jax.analysis.routes on runs with planted attention."""

import dataclasses

import numpy as np
import pytest

from attn_jax.analysis import hypotheses, metrics, relevance
from attn_jax.analysis.options import Options
from attn_jax.core.errors import MissingInputError, RecordError
from tests import testing
from tests.analysis import runs
from tests.analysis.runs import study_of, value

ALL = (0, 1)  # the layers
GROUPS = ("image/front", "image/wrist", "bos", "text", "state", "pad", "action")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    runs.write_run(run, layers=ALL)
    return study_of(run)


def test_rollout_of_two_layers_by_hand(study):
    table = hypotheses.run(study, "rollout", Options())
    metrics.require("rollout", sorted(set(table.metric)), where="rollout")
    total = sum(value(table, metric=f"rollout:{name}") for name in GROUPS)
    assert total == pytest.approx(1.0, abs=1e-5)
    # Each layer is half identity. All rows give 0.25 to each camera, tokens of which count as
    # themselves: 0.5 * 0.25 of the second layer goes on to the first; half of that stays there, the
    # other half is attention again, and so is half of what stayed with the actions.
    first = 0.5 * 0.25
    second = 0.5 * (0.25 * 0.5) + 0.5 * 0.5 * 0.25
    assert value(table, metric="rollout:image/wrist") == pytest.approx(
        second + 0.5 * first, rel=0.02
    )
    # Mass on the cube is 0.4 of what is attended in every layer.
    labels = {"camera": "wrist", "role": "target"}
    assert value(table, metric="overlap", **labels) == pytest.approx(0.4, rel=0.02)
    assert value(table, metric="lift", **labels) == pytest.approx(6.4, rel=0.02)
    flows = {name: value(table, metric=f"flow:{name}") for name in GROUPS}
    assert flows["action"] > flows["image/wrist"] > flows["bos"] > 0
    assert flows["image/wrist"] == pytest.approx(flows["image/front"], rel=1e-3)


def test_steps_are_joined_as_asked(tmp_path):
    runs.write_run(tmp_path, layers=ALL, share=0.2, denoise=(0, 1), denoise_drift=0.4)
    study, found = study_of(tmp_path), {}
    for denoise in ("first", "mean", "last"):
        table = hypotheses.run(study, "rollout", Options(denoise=denoise))
        found[denoise] = value(table, metric="overlap", camera="wrist", role="target")
    assert found["first"] + 0.1 < found["mean"] < found["last"] - 0.1


def test_gaps_between_layers_are_an_error(tmp_path):
    runs.write_run(tmp_path)
    with pytest.raises(RecordError, match=r"layers \[2, 5\].*layers=all"):
        hypotheses.run(study_of(tmp_path), "rollout", Options())
    runs.write_run(tmp_path / "less", only_reduced=True)
    with pytest.raises(RecordError, match="reduce=head_mean"):
        hypotheses.run(study_of(tmp_path / "less"), "rollout", Options())


@pytest.mark.parametrize(
    ("stream", "groups"),
    [("prefix", {"queries": "text"}), ("suffix", {"keys": ("image/*", "action")})],
)
@pytest.mark.parametrize("name", ["rollout", "relevance"])
def test_a_part_of_the_tokens_is_not_enough(tmp_path, name, stream, groups):
    """Nor is it damage: a configuration may leave the hypothesis out then."""

    def less(made):
        made = edges(made) if name == "relevance" else dict(made)
        place = next(key for key in made if key.startswith(stream))
        return made | {place: runs.part(made[place], **groups)}

    runs.write_run(tmp_path, layers=ALL, extra=less)
    with pytest.raises(
        MissingInputError, match=f"{stream}' keeps a part of the tokens.*layers=all"
    ):
        hypotheses.run(study_of(tmp_path), name, Options())


def test_relevance_needs_every_denoising_step(tmp_path):
    def last(made):
        suffix = edges(made)["suffix.relevance"]
        values = np.asarray(suffix.values)[:, 1:]
        return {"suffix.relevance": dataclasses.replace(suffix, values=values, denoise=(1,))}

    runs.write_run(tmp_path, layers=ALL, extra=last)
    with pytest.raises(MissingInputError, match=r"denoising steps \[1\], not all from 0"):
        hypotheses.run(study_of(tmp_path), "relevance", Options())


def edges(made):
    """Relevance records from attention: the gradient is 1, but -1 for the second head."""
    sign = np.array([1.0, -1.0], np.float32)[:, None, None]
    return {
        f"{name}.relevance": dataclasses.replace(
            record, values=record.values * sign, reduction="relevance", complete_rows=False
        )
        for name, record in made.items()
    }


def test_relevance_is_that_of_the_record(tmp_path, study):
    with pytest.raises(RecordError, match=r"no record 'suffix.relevance'.*--relevance"):
        hypotheses.run(study, "relevance", Options())
    runs.write_run(tmp_path, layers=ALL, extra=edges)
    read = study_of(tmp_path)
    table = hypotheses.run(read, "relevance", Options())
    metrics.require("relevance", sorted(set(table.metric)), where="relevance")
    suffix, prefix = (
        np.asarray(read.base.record([f"{name}.relevance"]).values) for name in ("suffix", "prefix")
    )
    expected = []
    for call in range(3):
        inputs = relevance.prefix_relevance(prefix[call, 0])
        row = relevance.denoise_relevance(suffix[call], inputs).mean(0)
        expected.append((row / row.sum())[16:32])  # the wrist
    found = value(table, metric="relevance:image/wrist")
    assert found == pytest.approx(np.sum(expected) / 3, rel=1e-6)
    on_cube = np.mean([row[5] / row.sum() for row in expected])
    labels = {"camera": "wrist", "role": "target"}
    assert value(table, metric="overlap", **labels) == pytest.approx(on_cube, rel=1e-6)
    assert np.isnan(value(table, metric="relevance:action"))  # of the prefix alone


if __name__ == "__main__":
    testing.main()
