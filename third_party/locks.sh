#!/usr/bin/env bash
# Regenerates requirements/{core,dev,bridge}.lock from pyproject.toml. Needs uv and an interpreter
# in .venv.
#
# Usage: third_party/locks.sh [--upgrade]
#
# uv.lock is the resolver's memory: while it exists, pins move only when pyproject.toml asks for it.
# It is not kept in the repository because it names the registry it was made with; in a fresh clone
# everything is resolved anew. The locks hold names, versions, hashes and markers only, and the core
# is a part of dev, which is a part of bridge.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v uv >/dev/null || { echo "locks: uv is needed (pip install uv)" >&2; exit 2; }
[ -x .venv/bin/python ] || { echo "locks: no .venv yet; run: make setup" >&2; exit 2; }
export UV_PYTHON_DOWNLOADS=never
python=$(readlink -f .venv/bin/python)

uv lock --quiet --python "$python" "$@"

lock() { # lock NAME OPTION...
  local name=$1
  shift
  uv export --quiet --frozen --python "$python" --format requirements-txt --no-emit-project \
    --no-header --no-annotate "$@" --output-file "requirements/$name.lock" >/dev/null
  echo "requirements/$name.lock: $(grep -c == "requirements/$name.lock") packages"
}
lock core --no-default-groups
lock dev --group dev
lock bridge --group dev --extra bridge --extra libero
