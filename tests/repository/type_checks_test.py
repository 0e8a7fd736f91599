"""Shapes and dtypes in signatures are really checked, under pytest and under Bazel alike."""

from __future__ import annotations

import sys
import warnings

import jax
import numpy as np
import pytest

from attn_jax.core import typing as core_typing
from tests import testing


def test_the_project_comes_from_this_tree_and_is_instrumented():
    assert core_typing.__file__.startswith(str(testing.ROOT))
    assert type(core_typing.__spec__.loader).__module__.startswith("jaxtyping")


def test_a_wrong_shape_is_noticed(tmp_path):
    package = tmp_path / "attn_jax"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "probe_me.py").write_text(
        "import numpy as np\n"
        "from jaxtyping import Float\n"
        "def twice(x: Float[np.ndarray, 'n n']) -> Float[np.ndarray, 'n n']:\n"
        "    return 2 * x\n"
    )
    testing.run_script(
        f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import jaxtyping
        import numpy as np
        from attn_jax import probe_me

        probe_me.twice(np.ones((2, 2)))
        for wrong in (np.ones((2, 3)), np.ones((2, 2), int)):
            try:
                probe_me.twice(wrong)
            except jaxtyping.TypeCheckError:
                continue
            sys.exit("not noticed")
        """
    )


def test_warnings_are_errors():
    with pytest.raises(UserWarning, match="careful"):
        warnings.warn("careful", stacklevel=1)


def test_tests_see_one_cpu_device_and_children_as_many_as_asked():
    assert [device.platform for device in jax.devices()] == ["cpu"]
    assert testing.run_script("import jax; print(jax.device_count())", devices=3) == "3\n"


def test_nothing_is_imported_from_elsewhere():
    assert np.__file__.startswith(sys.prefix)


if __name__ == "__main__":
    testing.main()
