import json

from attn_jax.data import quota
from tests import testing
from tests.data import fake_sessions


def finished(root, name, start, observations=4):
    return fake_sessions.write_session(root / name, observations, clock=lambda: start)


def test_counts_only_sessions(tmp_path):
    session = finished(tmp_path, "a", 1.0)
    (tmp_path / "data.bin").write_bytes(bytes(5000))
    (tmp_path / "folder").mkdir()
    assert quota.root_bytes(tmp_path) == quota.folder_bytes(session)
    expected = sum(path.stat().st_size for path in session.rglob("*") if path.is_file())
    assert quota.folder_bytes(session) == expected > 0
    assert quota.root_bytes(tmp_path / "nowhere") == 0


def test_plan_takes_the_oldest_and_no_more_than_needed(tmp_path):
    for name, start in {"c": 1.0, "b": 2.0, "a": 3.0}.items():
        finished(tmp_path, name, start)
    size = quota.folder_bytes(tmp_path / "c")
    assert [c.path.name for c in quota.plan_reclaim(tmp_path, 1)] == ["c"]
    assert [c.path.name for c in quota.plan_reclaim(tmp_path, size + 1)] == ["c", "b"]
    assert quota.plan_reclaim(tmp_path, 10**9) == ()  # deleting all would not do
    assert [c.path.name for c in quota.plan_reclaim(tmp_path, 1, protect=("c",))] == ["b"]
    assert quota.plan_reclaim(tmp_path, 1, protect=("*",)) == ()


def test_unfinished_damaged_and_linked_sessions_stay(tmp_path):
    root = tmp_path / "root"
    unfinished = finished(root, "unfinished", 1.0)
    meta = json.loads((unfinished / "session_meta.json").read_text())
    del meta["end_time"]
    (unfinished / "session_meta.json").write_text(json.dumps(meta))
    damaged = finished(root, "damaged", 2.0)
    (damaged / "session_meta.json").write_text("{")
    finished(tmp_path, "elsewhere", 0.0)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    assert quota.plan_reclaim(root, 1) == ()


def test_remove(tmp_path):
    finished(tmp_path, "a", 1.0)
    finished(tmp_path, "b", 2.0)
    plan = quota.plan_reclaim(tmp_path, 1)
    before = quota.root_bytes(tmp_path)
    freed = quota.remove_sessions(plan)
    assert not (tmp_path / "a").exists() and (tmp_path / "b").exists()
    assert before - freed == quota.root_bytes(tmp_path)


if __name__ == "__main__":
    testing.main()
