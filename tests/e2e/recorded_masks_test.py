"""Recorded on the tabletop, seen by a policy, analysed: the masks and prompts go all the way."""

import numpy as np
import pandas as pd
import pytest

from attn_jax.data.episodes import episode_folder, read_episode
from attn_jax.data.lerobot_beside import read_masks, read_notes
from attn_jax.data.prompts import Prompt
from attn_jax.policies.policy import load_policy
from attn_jax.probe.select import Selection
from configs import tabletop
from configs.analysis import h1_1_objects
from launch import record
from launch.analyze import analyse_run
from launch.episode_evaluation import Settings, evaluate_episodes
from launch.episode_sources import open_source
from tests import testing
from tests.policies import checkpoints


@pytest.mark.slow
def test_droid_style_recordings_reach_the_analysis(tmp_path):
    config = tabletop.get_config("tiny")
    config.episodes, config.dataset.format = 1, "droid"
    record.main(config, tmp_path / "d")
    folder = checkpoints.write_checkpoint(
        tmp_path / "checkpoint", cameras=("front", "wrist"), state=8, action=8
    )
    policy = load_policy(folder, capture=Selection.parse("layers=all;reduce=patch_map,group_mass"))
    run, source = tmp_path / "run", open_source(tmp_path / "d")
    assert source.kind == "droid"
    evaluate_episodes(policy, source, Settings(run, rename={"left": "front"}, progress=False))
    episode = read_episode(episode_folder(run, 0))
    assert episode.masks["wrist"].any() and "target" in episode.roles.values()
    result = analyse_run(run, h1_1_objects.get_config("tiny"), tmp_path / "out")
    assert result["analysed"] == 1 and result["rows"] > 0 and not result["skipped"]


@pytest.mark.slow
def test_masks_of_a_recording_reach_the_analysis(tmp_path):
    config = tabletop.get_config("tiny")
    config.episodes = 1
    record.main(config, tmp_path / "d")
    folder = checkpoints.write_checkpoint(
        tmp_path / "checkpoint", cameras=("front", "wrist"), state=7, action=7
    )
    policy = load_policy(folder, capture=Selection.parse("layers=all;reduce=patch_map,group_mass"))
    prompts = (Prompt("other", "{other}", "object_swap"),)
    run = tmp_path / "run"
    evaluate_episodes(policy, open_source(tmp_path / "d"), Settings(run, prompts, progress=False))

    note, ids = read_notes(tmp_path / "d")[0], read_masks(tmp_path / "d", 0)
    episode = read_episode(episode_folder(run, 0))
    assert episode.objects == tuple(note["objects"]) and episode.roles == note["roles"]
    for camera, masks in episode.masks.items():
        for number in range(len(note["objects"])):
            expected = ids[camera][episode.env_step] == number + 1
            np.testing.assert_array_equal(masks[:, number], expected)
    other = read_episode(episode_folder(run / "variants/other", 0))
    assert [other.prompt] == note["other_prompts"] != [note["prompt"]]

    result = analyse_run(run, h1_1_objects.get_config("tiny"), tmp_path / "out")
    assert result["analysed"] == 1 and result["rows"] > 0 and not result["skipped"]
    rows = pd.concat(map(pd.read_parquet, (tmp_path / "out").rglob("rows.parquet")))
    assert np.isfinite(rows["value"].to_numpy(float)).any()


if __name__ == "__main__":
    testing.main()
