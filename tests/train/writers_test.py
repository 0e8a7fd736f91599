"""Metrics files: complete lines, no duplicates after a restart, optional destinations."""

import json
import sys

import pytest

from attn_jax.core.errors import ConfigError, InputError
from attn_jax.train import writers
from attn_jax.train.writers import JsonlWriter, TensorBoardWriter, WandbWriter, Writers, read_jsonl
from tests import testing


def test_lines_are_there_at_once_and_strict_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"step": 1, "loss": float("nan"), "rate": 0.1 + 0.2, "event": "x"})
        assert path.read_text() == (
            '{"step": 1, "loss": null, "rate": 0.30000000000000004, "event": "x"}\n'
        )


def test_truncate_drops_later_lines_and_a_torn_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 4, "val": 1}\n{"step": 6}\n{"st')
    with JsonlWriter(path) as writer:
        writer.truncate(4)
        writer.write({"step": 5})
    assert read_jsonl(path) == [{"step": 2}, {"step": 4}, {"step": 4, "val": 1}, {"step": 5}]
    with JsonlWriter(path) as writer:
        writer.truncate(-1)
    assert path.read_text() == ""


def test_a_corrupt_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\nnonsense\n{"step": 4}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: not a line of JSON"):
        read_jsonl(path)


def test_tensorboard_writes_events(tmp_path):
    testing.require_module("tensorboardX")
    writer = TensorBoardWriter(tmp_path)
    writer.truncate(3)
    writer.write({"step": 4, "samples": 8, "loss": 0.5, "gone": None, "event": "x"})
    writer.close()
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("events*"))
    assert b"loss" in raw
    assert b"samples" not in raw and b"gone" not in raw and b"event" not in raw


def test_wandb_gets_lines_and_its_end(tmp_path, monkeypatch):
    calls = []

    class Run:
        def define_metric(self, name, **kwargs):
            calls.append((name, kwargs))

        def log(self, line, step):
            calls.append((step, line))

        def finish(self):
            calls.append("finish")

    class Package:
        @staticmethod
        def init(**kwargs):
            calls.append(kwargs)
            return Run()

    monkeypatch.setattr(writers, "_import", lambda *_: Package)
    writer = WandbWriter("project", "run", tmp_path)
    writer.truncate(1)
    writer.write({"step": 2, "loss": 1.0})
    writer.close()
    assert calls[0]["project"] == "project" and calls[0]["resume"] == "allow"
    assert calls[1:3] == [("samples", {}), ("*", {"step_metric": "samples"})]
    assert calls[3:] == [(2, {"step": 2, "loss": 1.0}), "finish"]


def test_missing_packages_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"wandb is not installed.*attn-jax\[wandb\]"):
        WandbWriter("project", "run", tmp_path)
    with pytest.raises(ConfigError, match=r"attn-jax\[tensorboard\]"):
        TensorBoardWriter(tmp_path)


def test_optional_packages_are_not_imported():
    code = "import attn_jax.train.loop, sys; print({'wandb', 'tensorboardX'} & set(sys.modules))"
    assert testing.run_python("-c", code).stdout.strip() == "set()", sys.path


def test_all_destinations_get_everything(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    both = Writers([JsonlWriter(path) for path in paths])
    both.write({"step": 1})
    both.write({"step": 2})
    both.truncate(1)
    both.close()
    assert [json.loads(path.read_text()) for path in paths] == [{"step": 1}, {"step": 1}]


if __name__ == "__main__":
    testing.main()
