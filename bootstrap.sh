#!/usr/bin/env bash
# Makes .venv in this checkout and installs one locked set of packages into it.
#
# Usage: ./bootstrap.sh [core|dev|bridge]        (core when nothing is said)
#
#   core    what the product needs                            about 90 packages, 300 MB to download
#   dev     core, and what tests and linters need
#   bridge  dev, torch and lerobot, for the parity tests      about 150 packages, 3 GB to download
#
# Quick when nothing has changed: a copy of the installed lock is kept in .venv, and a stronger set
# satisfies a weaker one. A damaged or moved .venv is made anew. Packages are checked against the
# hashes in requirements/*.lock; what is not in the lock is removed.
#
# Environment:
#   ATTN_JAX_BASE_PYTHON   the Python 3.12 or 3.13 to use; otherwise one is looked for
#   ATTN_JAX_PYTHON_DIRS   folders to look into besides PATH and pyenv, separated by colons
#   ATTN_JAX_NO_UV=1       use venv and pip even where uv is installed
#
# Exit codes: 0 ready; 1 an installation step failed; 2 something has to be installed or said first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
started=$SECONDS

say() { printf 'bootstrap: %s\n' "$*"; }
die() { local code=$1; shift; printf 'bootstrap: %s\n' "$*" >&2; exit "$code"; }

profile=${1:-core}
case $profile in
  core | dev | bridge) ;;
  -h | --help) awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' bootstrap.sh; exit 0 ;;
  *) die 2 "unknown profile '$profile': choose core, dev or bridge" ;;
esac
strength() { case $1 in core) echo 1 ;; dev) echo 2 ;; bridge) echo 3 ;; *) echo 0 ;; esac; }

venv=.venv
python=$venv/bin/python
stamp=$venv/attn_jax # which profile is installed, and a copy of its lock
place=$venv/attn_jax_place # where it was made: its scripts name that folder

# --- Is everything there already? ---------------------------------------------------------------

# Candidates are executed, never only looked up: a pyenv shim can be on PATH and fail when run.
supported() {
  "$1" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' \
    </dev/null >/dev/null 2>&1
}

here=$(pwd -P)
usable() { supported "$python" && [ "$(cat "$place" 2>/dev/null)" = "$here" ]; }

if usable && [ -f "$stamp/profile" ]; then
  installed=$(cat "$stamp/profile")
  if [ "$(strength "$installed")" -ge "$(strength "$profile")" ]; then
    if cmp -s "$stamp/lock" "requirements/$installed.lock"; then
      say "ready ($installed packages, unchanged)"
      exit 0
    fi
    profile=$installed # the lock has changed: bring the same set up to date
  fi
fi

# --- uv, or venv and pip ------------------------------------------------------------------------

uv=
if [ "${ATTN_JAX_NO_UV:-0}" != 1 ] && uv --version </dev/null >/dev/null 2>&1; then
  uv=uv
  export UV_PYTHON_DOWNLOADS=never
fi

# --- A Python 3.12 or 3.13 ----------------------------------------------------------------------

candidates() {
  printf '%s\n' python3.12 python3.13 python3
  local file folder
  for file in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1{2,3}.*/bin/python; do
    if [ -x "$file" ]; then printf '%s\n' "$file"; fi
  done
  local folders=${ATTN_JAX_PYTHON_DIRS-/usr/local/bin:/usr/bin:/opt/homebrew/bin:/opt/conda/bin}
  while IFS= read -r -d : folder; do
    for file in "$folder"/python3.1{2,3}; do
      if [ -x "$file" ]; then printf '%s\n' "$file"; fi
    done
  done <<<"$folders:"
}

# Without uv, the interpreter itself must be able to make an environment.
lacking="lacks the modules venv and ensurepip: install them (Debian: python3-venv), or uv"
complete() { [ -n "$uv" ] || "$1" -c 'import ensurepip, venv' </dev/null >/dev/null 2>&1; }
executable() { "$1" -c 'import sys; print(sys.executable)' </dev/null; }

find_python() {
  local candidate
  incomplete=
  if [ -n "${ATTN_JAX_BASE_PYTHON:-}" ]; then
    supported "$ATTN_JAX_BASE_PYTHON" ||
      die 2 "ATTN_JAX_BASE_PYTHON=$ATTN_JAX_BASE_PYTHON does not run, or is not Python 3.12 or 3.13"
    base=$(executable "$ATTN_JAX_BASE_PYTHON")
    complete "$base" || die 2 "$base $lacking"
    return
  fi
  while IFS= read -r candidate; do
    supported "$candidate" || continue
    base=$(executable "$candidate")
    if complete "$base"; then return; fi
    incomplete=$base
  done < <(candidates)
  if [ -n "$uv" ]; then
    base=$("$uv" python find --no-python-downloads '>=3.12,<3.14' 2>/dev/null) && supported "$base" && return
    say "no Python 3.12 or 3.13 here; asking uv to fetch one"
    UV_PYTHON_DOWNLOADS=manual "$uv" python install 3.12 &&
      base=$("$uv" python find --no-python-downloads 3.12) && supported "$base" && return
  fi
  [ -z "$incomplete" ] ||
    die 2 "$incomplete $lacking"
  die 2 "no working Python 3.12 or 3.13 found (PATH, pyenv, system directories, uv). Install one of
  Debian or Ubuntu   apt-get install python3.12 python3.12-venv
  pyenv              pyenv install 3.12
  uv                 uv python install 3.12
or name one: ATTN_JAX_BASE_PYTHON=/path/to/python3.12 $0 $profile"
}

# --- The environment and its packages -----------------------------------------------------------

if ! usable; then
  find_python
  say "making $venv with $("$base" --version) ($base)"
  rm -rf "$venv"
  if [ -n "$uv" ]; then
    "$uv" venv --quiet --no-python-downloads --python "$base" "$venv" || die 1 "uv could not make $venv"
  else
    "$base" -m venv "$venv" || die 1 "$base -m venv failed"
  fi
  printf '%s\n' "$here" >"$place"
fi
rm -rf "$stamp" # from here until the end the environment is in no known state

lock=requirements/$profile.lock
say "installing $lock with ${uv:-pip}"
quiet=--quiet # progress bars for people, silence for logs
if [ -t 2 ]; then quiet=; fi
if [ -n "$uv" ]; then
  "$uv" pip sync $quiet --require-hashes --python "$python" "$lock" ||
    die 1 "the packages of $lock could not be installed (see above); is the package index reachable?"
else
  # An environment made by uv has no pip.
  "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip --upgrade >/dev/null
  # What the lock does not ask for goes, as with uv's sync; first, because two packages may own one
  # file. A new environment holds pip only, so that nothing else is kept.
  surplus=$("$python" -I - "$lock" <<'PY'
import importlib.metadata
import sys

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

with open(sys.argv[1], encoding="utf-8") as lock:
    wanted = [Requirement(line.rstrip("\\ \n")) for line in lock if line[0].isalnum()]
keep = {canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate()}
names = {canonicalize_name(d.name) for d in importlib.metadata.distributions() if d.name}
print(*sorted(names - keep - {"pip"}))
PY
  ) || die 1 "the packages in $venv could not be compared with $lock: remove $venv and try again"
  [ -z "$surplus" ] || "$python" -m pip uninstall $quiet --disable-pip-version-check --yes $surplus ||
    die 1 "packages that $lock has dropped could not be removed: remove $venv and try again"
  "$python" -m pip install $quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock" ||
    die 1 "the packages of $lock could not be installed (see above); is the package index reachable?"
fi

# --- Does it work? ------------------------------------------------------------------------------

"$python" - <<'PY' || die 1 "the packages are installed but do not import: remove $venv and try again"
import platform

import flax
import jax

print(
    f"bootstrap: Python {platform.python_version()}, jax {jax.__version__}, flax {flax.__version__},"
    f" backend {jax.default_backend()}"
)
PY

mkdir -p "$stamp"
cp "$lock" "$stamp/lock"
printf '%s\n' "$profile" >"$stamp/profile"
say "set-up of the $profile packages took $((SECONDS - started)) s"
