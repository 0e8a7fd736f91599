"""Questions about the episodes of a run, from the checkpoint to rows of H2.2."""

import dataclasses
import json

import numpy as np
import pytest

from attn_jax.analysis import hypotheses
from attn_jax.analysis.options import Options
from attn_jax.core.errors import ConfigError, EpisodeError
from attn_jax.data.droid import read_droid
from attn_jax.data.episodes import episode_folder, read_episode, write_episode
from attn_jax.data.questions import Question
from attn_jax.policies.answers import Answerer, tokenizer_of
from attn_jax.policies.observations import describe
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader
from launch import episode_questions
from launch.episode_analysis import open_study
from tests import testing
from tests.data import fake_droid
from tests.policies import checkpoints

CAPTURE = Selection.parse("streams=prefix;queries=text;reduce=patch_map;dtype=float32")
WHICH = Question("which", "what should be picked up?", "{target}", "{target}")
COLOUR = Question("colour", "what colour is the table?")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoints.write_checkpoint(
        tmp_path_factory.mktemp("checkpoint"), cameras=("base", "wrist"), state=8, action=8
    )


@pytest.fixture(scope="module")
def answerer(checkpoint):
    description = describe(checkpoint)
    params = description.checkpoint.params()
    tokenizer = tokenizer_of(description)
    return Answerer(description, params, params["embedding"], tokenizer, CAPTURE, max_tokens=3)


@pytest.fixture
def run(tmp_path):
    """A run of two episodes of three calls."""
    folder = fake_droid.save_droid(tmp_path / "droid", prompt="pick up the red cube")
    recorded = read_droid(folder)
    target = recorded.objects[0]
    episode = dataclasses.replace(
        recorded,
        images={"base": recorded.images["left"], "wrist": recorded.images["wrist"]},
        masks={"wrist": recorded.masks["wrist"]},
        info={k: v for k, v in recorded.info.items() if k != "geometry"},
        roles={name: "target" if name == target else "other" for name in recorded.objects},
        actions=None,
    )
    for number in range(2):
        write_episode(episode_folder(tmp_path / "run", number), episode)
    return tmp_path / "run"


def test_from_questions_to_rows(answerer, run):
    result = episode_questions.ask(answerer, run, [WHICH, COLOUR], progress=False)
    assert result == {
        "episodes": 2, "questions": ["which", "colour"], "answers": 12, "skipped": 0
    }  # fmt: skip
    base = read_episode(episode_folder(run, 1))
    target = base.objects[0]
    asked = read_episode(episode_folder(run / "variants/ask_which", 1))
    facts = asked.info["vqa"]
    assert facts["expected"] == facts["object"] == target and len(facts["answer"]) == 3
    assert (asked.images["wrist"] == base.images["wrist"]).all()
    reader = RecordReader(episode_folder(run / "variants/ask_which", 1))
    assert [*reader.env_step] == base.env_step.tolist()
    # Asked again, nothing is left to do; other settings are refused.
    again = episode_questions.ask(answerer, run, [WHICH], progress=False)
    assert (again["answers"], again["skipped"]) == (0, 2)
    changed = dataclasses.replace(WHICH, text="what else?")
    with pytest.raises(ConfigError, match="made with another question"):
        episode_questions.ask(answerer, run, [changed], progress=False)
    study = open_study(run, "episode_00001")
    table = hypotheses.run(study, "h2_2", Options(streams=("prefix:text",)))
    rows = table[table["metric"] == "lift"]
    assert set(rows["variant"]) == {"ask_which"} and set(rows["camera"]) == {"wrist"}
    assert set(rows["role"]) == {"target"} and (rows["value"] >= 0).all()
    right = table[table["metric"] == "correct"].set_index("variant")["value"]
    assert np.isnan(right["ask_colour"])  # nobody says what is right
    assert right["ask_which"] == sum(said.strip() == target for said in facts["answer"]) / 3


def test_an_episode_that_fails_is_named_and_the_others_are_asked(answerer, run):
    first = read_episode(episode_folder(run, 0))
    roles = {name: "other" for name in first.objects}
    write_episode(episode_folder(run, 0), dataclasses.replace(first, roles=roles))
    with pytest.raises(EpisodeError, match=r"1 of 2 episodes failed \(episode_00000\).*target"):
        episode_questions.ask(answerer, run, [WHICH], progress=False)
    assert (episode_folder(run / "variants/ask_which", 1) / "observations.json").is_file()
    assert not (episode_folder(run / "variants/ask_which", 0) / "observations.json").exists()


@pytest.mark.slow
def test_the_launcher_asks(checkpoint, run):
    file = run.parent / "questions.yaml"
    file.write_text('- {key: which, question: "where is the {target}?", object: "{target}"}')
    command = (
        "-m", "launch.answer", f"--checkpoint={checkpoint}", f"--run={run}",
        f"--questions={file}", "--max_tokens=2", "--json",
    )  # fmt: skip
    done = testing.run_python(*command)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["answers"] == 6
    wrong = testing.run_python(*command[:3], f"--run={run / 'none'}", *command[4:])
    assert wrong.returncode == 2 and "holds no episodes" in wrong.stderr


if __name__ == "__main__":
    testing.main()
