"""The launcher of attention records: inspect, verify, convert."""

import dataclasses
import io
import json

import numpy as np
import pytest
import rich.console

from attn_jax.bridge import seed_formats
from attn_jax.core.errors import ConfigError, RecordError
from attn_jax.core.layout import TokenGroup, TokenLayout
from attn_jax.core.record import AttentionRecord
from attn_jax.probe.schema import start_run
from attn_jax.probe.select import Selection
from attn_jax.probe.store import RecordReader, RecordWriter
from attn_jax.probe.summary import summarise
from attn_jax.probe.verify import verify
from launch import attention
from tests import testing
from tests.bridge import seed_files

LAYOUT = TokenLayout(6, (TokenGroup("image", (0, 1, 2, 3), grid=(2, 2)), TokenGroup("act", (4, 5))))


@pytest.fixture
def run(tmp_path):
    with RecordWriter(tmp_path, info={"prompt": "pick [it] up"}) as writer:
        for number in range(3):
            p = np.random.default_rng(number).random((1, 1, 2, 4, 6, 6)).astype(np.float32)
            p /= p.sum(-1, keepdims=True)
            record = AttentionRecord("suffix", p, LAYOUT, (3, 4), (0, 1, 2, 7))
            writer.append([record], env_step=10 * number)
    return tmp_path


def damage(run):
    shard = next((run / "episodes").rglob("c.1.*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")


def test_verify_good(run):
    done = testing.run_python("-m", "launch.attention", "verify", str(run), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ok"] and result["problems"] == []
    assert result["episodes"][0]["records"][0]["shape"] == [3, 1, 2, 4, 6, 6]


def test_verify_bad_has_its_exit_code_and_still_prints_json(run):
    damage(run)
    done = testing.run_python("-m", "launch.attention", "verify", str(run), "--json")
    assert done.returncode == 2
    assert "error: " in done.stderr and "checksum of values is wrong (call 1)" in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert not result["ok"] and len(result["problems"]) == 1


def printed(show, *arguments):
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    show(*arguments, console)
    return console.export_text()


def test_inspect_shows_what_is_there(run):
    text = printed(attention.show_summary, summarise(run))
    for words in (
        "episode_00000: 3 calls, environment steps 0 to 20, complete",
        "prompt: pick [it] up",
        "3 x 1 x 2 x 4 x 6 x 6",
        "layers 3-4; heads 0-2, 7; denoising steps 0",
        "float16",
        "keys image 4, act 2",
        "suffix: mean mass by layer",
    ):
        assert words in text


def test_report_names_problems(run):
    assert printed(attention.show_report, verify(run)).endswith("good\n")
    damage(run)
    text = printed(attention.show_report, verify(run))
    assert "problem: episode_00000/suffix: checksum" in text and "NOT GOOD" in text


@pytest.mark.parametrize(
    "arguments", [[], ["verify"], ["verify", "a", "b"], ["repair", "a"], ["convert", "a"]]
)
def test_usage(arguments):
    with pytest.raises(ConfigError, match=r"launch\.attention inspect\|verify RECORD, convert"):
        attention.main(arguments)


def test_convert_layers_there_and_back(tmp_path):
    seed_files.save_layers(tmp_path / "maps")
    options = ("--cameras=wrist,empty", "--grid=2,2")
    done = testing.run_python(
        *("-m", "launch.attention", "convert", str(tmp_path / "maps"), str(tmp_path / "run")),
        *(*options, "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["episodes"]["maps"]["calls"] == 1
    assert verify(tmp_path / "run").ok
    layout = RecordReader(tmp_path / "run").record("prefix").layout
    assert layout.names == ("image/wrist", "image/empty", "text", "pad")
    for target in ("all.npz", "again"):
        attention.convert(tmp_path / "run", tmp_path / target)
    with np.load(tmp_path / "all.npz") as archive:
        for layer in (3, 11):
            original = np.load(tmp_path / "maps" / f"attn_map_layer_{layer}.npy")
            np.testing.assert_array_equal(archive[f"layer_{layer}"], original)
            again = np.load(tmp_path / "again" / f"attn_map_layer_{layer}.npy")
            np.testing.assert_array_equal(again, original)


@pytest.mark.bridge
def test_convert_episodes_there_and_back(tmp_path):
    testing.require_module("torch")
    import torch

    (tmp_path / "attention").mkdir()
    values = [
        seed_files.save_episode(
            tmp_path / "attention" / f"episode_{i:05d}_attention.pt", number=i, seed=i
        )
        for i in (0, 4)
    ]
    result = attention.convert(
        tmp_path / "attention", tmp_path / "run", cameras=["wrist", "empty"], grid=(2, 2)
    )
    assert result["episodes"]["episode_00004_attention.pt"] == {"episode": 4, "calls": 3}
    assert verify(tmp_path / "run").ok
    for number, expected in zip((0, 4), values, strict=True):
        reader = RecordReader(tmp_path / "run", number)
        assert reader.env_step == (0, 10, 20)
        np.testing.assert_array_equal(np.asarray(reader.record("suffix").values[:]), expected)
    attention.convert(
        tmp_path / "run" / "episodes" / "episode_00004", tmp_path / "again_attention.pt"
    )
    data = torch.load(tmp_path / "again_attention.pt", weights_only=True)
    assert data["episode_index"] == 4 and data["metadata"]["num_rollout_steps"] == 3
    step = data["rollout_steps"][2]["attention_maps"][1]
    assert step["time"] == 0.5 and (step["prefix_len"], step["suffix_len"]) == (11, 3)
    np.testing.assert_array_equal(step["attention_weights"][17][0].numpy(), values[1][2, 1, 1])


@pytest.mark.bridge
def test_convert_takes_the_times_of_the_record_and_guesses_none(tmp_path):
    testing.require_module("torch")
    import torch

    seed_files.save_episode(tmp_path / "x.pt")
    episode = seed_formats.read_seed(tmp_path / "x.pt", cameras=("wrist", "empty"), grid=(2, 2))

    def written(name, denoise, capture=None, **facts):
        run = tmp_path / name
        selection = None if capture is None else Selection.parse(capture)
        start_run(run, selection=selection, provenance=facts.pop("provenance", None))
        with RecordWriter(run, codec="float32", info=facts) as writer:
            record = dataclasses.replace(episode.record(0), denoise=denoise)
            writer.append([record], env_step=0)
        attention.convert(run, run / "out.pt")
        return torch.load(run / "out.pt", weights_only=True)

    times = [round(1 - k / 10, 1) for k in range(10)]
    data = written("known", (0, 1), "denoise=0,1", times=times, denoising_steps=10)
    assert data["metadata"]["num_denoising_steps_per_action"] == 10
    maps = data["rollout_steps"][0]["attention_maps"]
    assert [maps[step]["time"] for step in (0, 1)] == [1.0, 0.9]
    # As earlier versions recorded: without times.
    data = written("whole", (0, 1), "denoise=all")
    assert data["rollout_steps"][0]["attention_maps"][1]["time"] == 0.5
    model = {"model": {"num_inference_steps": 10}}
    for name, denoise, capture, facts in (
        ("part", (0, 1), "denoise=0,1", {}),
        ("gap", (0, 9), None, {}),
        ("model", (0, 1), None, {"provenance": model}),
        ("uncounted", (0, 1), None, {"times": [1.0, 0.9], "denoising_steps": None}),
    ):
        with pytest.raises(RecordError, match=r"does not say of how many.*Record again"):
            written(name, denoise, capture, **facts)


def test_convert_errors(run, tmp_path):
    with pytest.raises(RecordError, match="exists already"):
        attention.convert(run, run)
    with pytest.raises(RecordError, match=r"has 3 calls, --call is 3"):
        attention.convert(run, tmp_path / "x.npz", call=3)
    with pytest.raises(RecordError, match=r"no record 'prefix'.*suffix"):
        attention.convert(run, tmp_path / "x.npz")
    with pytest.raises(RecordError, match="no attention record here"):
        attention.convert(tmp_path / "nothing", tmp_path / "x.npz")


def test_no_record(tmp_path):
    for verb in ("inspect", "verify"):
        with pytest.raises(RecordError, match="no attention record here"):
            attention.main([verb, str(tmp_path)])


def test_sizes():
    assert [attention._size(n) for n in (0, 999, 1500, 2_340_000, 5e9)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.34 MB",
        "5 GB",
    ]


@pytest.mark.bridge
def test_inspect_of_an_older_file(tmp_path):
    testing.require_module("torch")
    path = tmp_path / "episode_00000_attention.pt"
    seed_files.save_episode(path)
    done = testing.run_python(
        *("-m", "launch.attention", "inspect", str(path), "--json"),
        *("--cameras=wrist,empty", "--grid=2,2"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["shape"] == [3, 2, 2, 2, 3, 14] and found["times"] == [1.0, 0.5]
    assert found["layers"] == [16, 17] and found["row_sum_error"] < 1e-5


if __name__ == "__main__":
    testing.main()
