import errno
import json
import os

import pytest

from attn_jax.core import files
from attn_jax.core.errors import ConfigError, DiskFullError
from tests import testing


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "a.bin"
    files.replace_file(path, lambda file: file.write(b"old"))
    files.replace_file(path, lambda file: file.write(b"newer"))
    assert path.read_bytes() == b"newer"
    assert [f.name for f in tmp_path.iterdir()] == ["a.bin"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskFullError, match="no space left"), files.disk_errors(path):
        files.replace_file(path, fail)
    assert path.read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.bin"]


def test_json_has_sorted_keys_and_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"a": [2], "b": 1} and text.index("a") < text.index("b")
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert (tmp_path / "a.json").read_text() == text


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.EDQUOT, "quota"), DiskFullError, "while writing tables.*Free some"),
        (ValueError("failed [os_error_code='28']"), DiskFullError, "no space left"),
        (OSError(errno.EACCES, "denied"), PermissionError, "denied"),
        (ValueError("other"), ValueError, "other"),
        (ConfigError("known"), ConfigError, "known"),
    ],
)
def test_only_a_full_disk_is_translated(tmp_path, error, kind, message):
    with pytest.raises(kind, match=message), files.disk_errors(tmp_path, what="tables"):
        raise error


if __name__ == "__main__":
    testing.main()
