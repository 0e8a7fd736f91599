"""The Python rules of this repository; the only file to change when moving to rules_python."""

def attn_py_library(name, **kwargs):
    """A module, or several that import each other."""
    native.py_library(name = name, srcs_version = "PY3", **kwargs)

def attn_py_binary(name, **kwargs):
    """A module that can be run: `bazel run //launch:train -- --config=...`."""
    native.py_binary(
        name = name,
        srcs = [name + ".py"],
        python_version = "PY3",
        srcs_version = "PY3",
        **kwargs
    )

def attn_py_test(name, deps = [], data = [], **kwargs):
    """A test file; tests/run_file.py hands it to pytest under the rules of tests/conftest.py.

    Started as a program it would do the same, but import all it needs twice.
    """
    native.py_test(
        name = name,
        srcs = [name + ".py", "//tests:run_file.py"],
        main = "//tests:run_file.py",
        args = ["$(rootpath " + name + ".py)"],
        data = data + ["//:pyproject.toml", "@local_python//:lock"],
        python_version = "PY3",
        srcs_version = "PY3",
        deps = deps + ["//tests:conftest", "//tests:testing"],
        **kwargs
    )
