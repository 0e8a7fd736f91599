from __future__ import annotations

from launch.built import Built
from tests import testing


def test_a_family_need_not_write_anything(tmp_path):
    built = Built(None, None, {}, ("", "min"))  # pyright: ignore[reportArgumentType]
    built.prepare(tmp_path)
    built.finish(tmp_path)
    assert not any(tmp_path.iterdir()) and built.frozen == () and built.params is None


if __name__ == "__main__":
    testing.main()
