"""Tests of attn_jax.analysis.prompts on runs with planted attention."""

import shutil

import numpy as np
import pytest

from attn_jax.analysis import hypotheses, studies
from attn_jax.analysis.options import Options, actions_like
from attn_jax.core.errors import RecordError
from attn_jax.data.prompts import METHODS
from tests import testing
from tests.analysis import runs
from tests.analysis.runs import study_of, value


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    runs.write_run(run, drift=0.1)
    runs.write_variants(run)
    return study_of(run)


def test_prompts_move_attention_beyond_the_floors(study):
    table = hypotheses.run(study, "h2_1", Options(streams=("prefix:text",)))
    labels = {"metric": "relative_l2", "camera": "wrist"}
    moved = value(table, variant="ball", **labels)
    assert value(table, variant="ball", kind="counterfactual", **labels) == moved
    for key in ("noise_1", "please", "next_frame"):
        assert value(table, variant=key, **labels) < 0.3 * moved
    assert value(table, variant="next_frame", kind="frame", metric="pearson") > 0.9
    assert value(table, metric="action_l2_std", variant="ball") > 0
    base = study.base.episode.actions
    std = base.reshape(-1, 4).std(0)
    expected = np.linalg.norm((study.variants["ball"].episode.actions - base) / std, axis=-1).mean()
    found = value(table, metric="action_l2_std", variant="ball")
    assert found == pytest.approx(expected, rel=1e-5)
    first = np.linalg.norm(((study.variants["ball"].episode.actions - base) / std)[0], axis=-1)
    found = value(table, metric="action_l2_std_first", variant="ball")
    assert found == pytest.approx(first.mean(), rel=1e-5)
    apart = np.abs(study.variants["ball"].episode.actions - base) / std
    for number in range(4):
        labels = {"variant": "ball", "query": f"dimension/{number}"}
        found = value(table, metric="action_abs_std", **labels)
        assert found == pytest.approx(apart[..., number].mean(), rel=1e-5)
    frames = table[(table.variant == "ball") & (table.camera == "wrist")]
    every, one = (frames[frames.metric == f"jsd{end}"] for end in ("", "_first"))
    assert one.value.tolist() == every[every.env_step == every.env_step.min()].value.tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": (2, 4)}, r"odd: layers \[2, 4\] were recorded, \[2, 5\] of the base"),
        ({"denoise": (0, 3)}, r"odd: denoise \[0, 3\] were recorded"),
        ({"actions": np.zeros((3, 2, 4))}, r"odd: actions of shape \(3, 2, 4\)"),
    ],
)
def test_a_variant_that_cannot_be_compared(tmp_path, changes, said):
    """Maps of other layers have the same shape and would be compared as if they were the same."""
    runs.write_run(tmp_path)
    runs.write_run(tmp_path / "variants" / "odd", info={"method": "custom"}, **changes)
    with pytest.raises(RecordError, match=said):
        hypotheses.run(study_of(tmp_path), "h2_1", Options())


def test_a_variant_of_unknown_method_is_not_left_out(tmp_path):
    runs.write_run(tmp_path)
    runs.write_variants(tmp_path)
    runs.write_run(tmp_path / "variants" / "odd", info={"method": "synonym"})
    with pytest.raises(RecordError, match=r"variant odd: unknown method 'synonym'.*style"):
        hypotheses.run(study_of(tmp_path), "h2_1", Options())
    # Runs made on purpose are of other hypotheses, whatever they say of a prompt.
    shutil.rmtree(tmp_path / "variants" / "odd")
    info = {"method": "synonym", "vqa": {"question": "?", "answer": "a"}}
    runs.write_run(tmp_path / "variants" / "odd", info=info)
    table = hypotheses.run(study_of(tmp_path), "h2_1", Options())
    assert set(table.variant) == {"noise_1", "please", "ball", "empty", "next_frame"}


def test_every_method_of_a_prompt_file_has_a_kind():
    assert set(studies.KINDS) == set(METHODS)


def test_actions_of_other_calls_are_not_compared(tmp_path):
    runs.write_run(tmp_path)
    runs.write_run(
        tmp_path / "variants" / "late", info={"method": "custom"}, attention=False, steps=(0, 5, 15)
    )
    study = study_of(tmp_path)
    with pytest.raises(RecordError, match="late: actions at other steps than those of the base"):
        actions_like(study.variants["late"], study.base)


def test_words_and_their_objects(study):
    table = hypotheses.run(study, "words", Options(streams=("prefix:text",)))
    assert set(table["query"]) == {"find", "the", "red", "cube"}
    own = table[table.kind == "own"]
    assert set(own["query"]) == {"red", "cube"} and set(own.object) == {"red_cube"}
    assert value(own, metric="lift") == pytest.approx(6.4, rel=0.01)
    assert value(table, metric="lift", kind="other", object="ball") < 1


def test_a_shared_word_is_nobodys_own(tmp_path):
    """The ball is red too: the target's lift of 6.4 is not averaged with that of the ball."""
    runs.write_run(tmp_path, objects=("red_cube", "red_ball"))
    table = hypotheses.run(study_of(tmp_path), "words", Options(streams=("prefix:text",)))
    own = table[table.kind == "own"]
    assert set(own["query"]) == {"cube"} and set(own.object) == {"red_cube"}
    assert value(own, metric="lift") == pytest.approx(6.4, rel=0.01)
    assert value(table, metric="lift", query="red", object="red_ball", kind="other") < 1


if __name__ == "__main__":
    testing.main()
