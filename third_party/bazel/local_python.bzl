"""The interpreter of this checkout's .venv as a Bazel toolchain.

The packages of the environment come with the interpreter, so that no rule has to fetch any.
Variables read (set by third_party/bazel/configure.sh or by hand with --repo_env):
  ATTN_JAX_PYTHON  interpreter to use instead of .venv/bin/python
  ATTN_JAX_LOCK    any text that changes when the installed packages change
"""

_BUILD = """\
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

py_runtime(
    name = "runtime",
    interpreter_path = "{python}",
    python_version = "PY3",
    # The usual "env python" is not found under a strict environment.
    stub_shebang = "#!{python}",
)

py_runtime_pair(
    name = "runtime_pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtime_pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)

# Data of every test: another interpreter or another package version means another test run.
filegroup(
    name = "lock",
    srcs = ["installed.txt"],
)
"""

_PROBE = """\
import importlib.metadata, sys
assert (3, 12) <= sys.version_info[:2] <= (3, 13), sys.version
print("python", *sys.version_info[:3])
for line in sorted({f"{d.name}=={d.version}" for d in importlib.metadata.distributions()}):
    print(line)
"""

def _local_python_impl(repository_ctx):
    workspace = repository_ctx.path(Label("//:WORKSPACE")).dirname
    python = repository_ctx.os.environ.get("ATTN_JAX_PYTHON", str(workspace) + "/.venv/bin/python")
    probe = repository_ctx.execute([python, "-I", "-c", _PROBE])
    if probe.return_code:
        fail("%s is not a working Python 3.12 or 3.13 (run: make setup-all): %s" % (python, probe.stderr))
    repository_ctx.file("installed.txt", probe.stdout)
    repository_ctx.file("BUILD", _BUILD.format(python = python))

local_python_configure = repository_rule(
    implementation = _local_python_impl,
    configure = True,
    environ = ["ATTN_JAX_LOCK", "ATTN_JAX_PYTHON"],
    local = True,
)
