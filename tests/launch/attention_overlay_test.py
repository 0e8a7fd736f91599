import dataclasses

import numpy as np
import pytest
from PIL import Image

from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.data.episodes import META, episode_folder, write_episode
from attn_jax.probe.store import RecordWriter
from attn_jax.viz import video
from attn_jax.viz.overlays import Look
from launch import attention_overlay
from launch.attention_overlay import Task, overlay
from tests import testing
from tests.viz import recorded


@pytest.fixture
def run(tmp_path):
    run = recorded.save_run(tmp_path / "run")
    return recorded.save_run(run, number=3, seed=1)


def test_observations_become_a_video(run, tmp_path):
    done = overlay(run, Task(Look(), fps=2.0), tmp_path / "out", [3])
    assert done == {"output": "out", "episodes": {"episode_00003": ["episode_00003.mp4"]}}
    info = video.read_info(tmp_path / "out" / "episode_00003.mp4")
    assert info.fps == 2.0 and info.num_frames == 3


def test_a_video_of_the_run_is_drawn_over(tmp_path):
    run = tmp_path / "run"
    panels = {"front": [0, 0, 90, 160], "wrist": [0, 160, 90, 90]}
    recorded.save_run(run, video={"path": "videos/0.mp4", "panels": panels})
    frames = np.full((12, 90, 250, 3), 120, np.uint8)
    video.write_video(run / "videos" / "0.mp4", iter(frames), fps=20)
    overlay(run, Task(Look()), tmp_path / "out")
    made = tmp_path / "out" / "episode_00000.mp4"
    assert video.read_info(made) == video.VideoInfo((40 + 2 * 90, 2 * 250), 20.0, 12)
    plain = Task(Look(), video=run / "videos" / "0.mp4", cameras=("wrist",), suffix=".mkv")
    overlay(run, plain, tmp_path / "out")
    frame = list(video.read_frames(tmp_path / "out" / "episode_00000.mkv"))[7]
    left, right = frame[45:215, 5:310].astype(int), frame[45:215, 330:490].astype(int)
    assert abs(left - 120).max() < 8 and abs(right - 120).max() > 20  # wrist only
    (run / "videos" / "0.mp4").unlink()
    with pytest.raises(RecordError, match=r"0.mp4: video is missing.*--video"):
        overlay(run, Task(Look()), tmp_path / "out")


def test_pictures_at_time_steps(run, tmp_path):
    task = Task(Look(layer=2, denoise=0), timesteps=(0, 7), row=1, cameras=("wrist",))
    done = overlay(run, task, tmp_path / "out", [0])
    names = [f"episode_00000/timestep_{step:03d}_wrist.png" for step in (0, 7)]
    assert done["episodes"] == {"episode_00000": names}
    with Image.open(tmp_path / "out" / names[1]) as picture:
        assert picture.size == (200 + 6 + 200, 40 + 200)


def frames_of(path):
    return np.stack([*video.read_frames(path)]).astype(int)


def test_objects_are_outlined_over_the_observations(run, tmp_path):
    for name, outline in (("with", True), ("without", False)):
        task = Task(Look(), suffix=".mkv", outline=outline)
        overlay(run, task, tmp_path / name, [0])
    drawn, bare = (frames_of(tmp_path / n / "episode_00000.mkv") for n in ("with", "without"))
    changed = np.abs(drawn - bare).max(-1) > 60
    assert changed.any((1, 2)).all() and changed.mean() < 0.1
    green = drawn[changed]
    assert (green[:, 1] > green[:, 0]).mean() > 0.9 and (green[:, 1] > green[:, 2]).mean() > 0.9


def test_prompts_stand_side_by_side(run, tmp_path):
    recorded.save_run(run / "variants" / "noise_1", method="none")
    other_run = run / "variants" / "cup"
    with RecordWriter(other_run, 0, codec="float32") as writer:
        for call in range(3):  # looks where the object is at the end, and then at the beginning
            writer.append(recorded.records(3, 2 - call), env_step=5 * call)
    write_episode(episode_folder(other_run, 0), recorded.episode(3, method="object_swap"))
    task = Task(Look(), variants=True, cameras=("wrist",), suffix=".mkv")
    done = overlay(run, task, tmp_path / "out", [0])
    assert done["episodes"] == {"episode_00000": ["episode_00000_variants_wrist.mkv"]}
    frames = frames_of(tmp_path / "out" / "episode_00000_variants_wrist.mkv")
    assert len(frames) == 3 and frames.shape[2] in (240 + 6 + 240, 240 + 6 + 241)
    own, other = frames[:, -240:, :240], frames[:, -240:, 246:486]
    apart = np.abs(own - other).max((1, 2, 3))
    assert apart[1] < 10 < 40 < min(apart[0], apart[2])
    with pytest.raises(RecordError, match="no run with another prompt"):
        overlay(run, task, tmp_path / "out", [3])
    for wrong in ({"timesteps": (0,)}, {"video": tmp_path / "a.mp4"}):
        with pytest.raises(ConfigError, match="--variants"):
            overlay(run, dataclasses.replace(task, **wrong), tmp_path / "out", [0])


def test_what_cannot_be_drawn(run, tmp_path):
    with pytest.raises(RecordError, match="has no episode 7"):
        overlay(run, Task(Look()), tmp_path / "out", [7])
    with pytest.raises(ConfigError, match="belongs to one episode"):
        overlay(run, Task(Look(), video=tmp_path / "a.mp4"), tmp_path / "out")
    with pytest.raises(RecordError, match="layer 9 was not recorded"):
        overlay(run, Task(Look(layer=9)), tmp_path / "out")
    (episode_folder(run, 0) / META).unlink()
    with pytest.raises(RecordError, match="neither a video nor recorded observations"):
        overlay(run, Task(Look()), tmp_path / "out", [0])
    assert not list((tmp_path / "out").glob("*.mp4"))


def test_a_video_that_ends_too_early(run, tmp_path):
    path = video.write_video(tmp_path / "a.mp4", iter(np.zeros((3, 64, 128, 3), np.uint8)), fps=2)
    task = Task(Look(), video=path, timesteps=(1, 5))
    with pytest.raises(RecordError, match="ends before step 5"):
        overlay(run, task, tmp_path / "out", [0])
    done = overlay(run, dataclasses.replace(task, timesteps=(1, 2)), tmp_path / "out", [0])
    assert len(done["episodes"]["episode_00000"]) == 4


@pytest.mark.parametrize("words", [["a"], [""], ["1", "-2"]])
def test_lists_of_numbers(words):
    with pytest.raises(ConfigError, match="is no list of numbers"):
        attention_overlay._numbers("timesteps", words)


def test_command(run):
    done = testing.run_python(
        "-m", "launch.attention", "overlay", str(run), "--episodes=0", "--timesteps=5", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert (run / "overlays" / "episode_00000" / "timestep_005_front.png").is_file()


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_frames_per_second_and_scale_are_checked(fps):
    with pytest.raises(ConfigError, match="--fps: is"):
        Task(Look(), fps=fps)
    with pytest.raises(ConfigError, match="--scale: is"):
        Task(Look(scale=fps))


if __name__ == "__main__":
    testing.main()
