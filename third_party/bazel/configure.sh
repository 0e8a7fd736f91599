#!/usr/bin/env bash
# Makes Bazel usable in this checkout: installs Debian's if there is none, and writes
# .bazelrc.local.
#
# .bazelrc.local is never kept in the repository: it holds absolute paths, and is written anew on
# every call so that a moved checkout or changed Python packages are noticed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

case $PWD in *" "*)
  echo "bazel: does not work in a folder with a space in its path: $PWD" >&2
  echo "bazel: the same tests run without it: make test" >&2
  exit 2 ;;
esac

packages=(bazel-bootstrap bazel-rules-java bazel-rules-proto bazel-platforms)
debian=/usr/share/bazel # where Debian keeps the repositories that Bazel would otherwise download

if ! command -v bazel >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "bazel: installing ${packages[*]}"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
      install --no-install-recommends "${packages[@]}" >/dev/null
  else
    echo "bazel: not installed. apt-get install --no-install-recommends ${packages[*]}" >&2
    echo "bazel: the same tests run without it: make test" >&2
    exit 2
  fi
fi
[ -f .venv/attn_jax/lock ] || { echo "bazel: no .venv yet; run: make setup-all" >&2; exit 2; }

root=$PWD
shims=$root/third_party/bazel/shims
mkdir -p .cache/jax .cache/matplotlib
{
  echo "# Written by third_party/bazel/configure.sh; changes are lost."
  if [ -f "$debian/A-server.jar" ]; then
    echo "build --override_repository=rules_cc=$shims/rules_cc"
    echo "build --override_repository=remote_coverage_tools=$shims/remote_coverage_tools"
    echo "build --override_repository=rules_java=$debian/rules/java"
    echo "build --override_repository=rules_proto=$debian/rules/proto"
    echo "build --override_repository=platforms=$debian/tools/platforms"
  else
    echo "common --noenable_bzlmod" # Bazel 7, untested: it fetches its own rules
  fi
  # The toolchain is set up anew, and tests run again, when the installed packages change.
  echo "build --repo_env=ATTN_JAX_LOCK=$(cksum <.venv/attn_jax/lock | tr ' ' -)"
  # Compiled JAX programs and matplotlib's font list are shared by all tests.
  for cache in JAX_COMPILATION_CACHE_DIR:jax MPLCONFIGDIR:matplotlib; do
    echo "test --test_env=${cache%:*}=$root/.cache/${cache#*:}"
    echo "test --sandbox_writable_path=$root/.cache/${cache#*:}"
  done
  # Namespaces are what the sandbox without network needs; containers may forbid them.
  if unshare --user --map-root-user --net true 2>/dev/null; then
    echo "test --config=offline"
  else
    echo "bazel: no user namespaces here; tests run with network" >&2
  fi
} >.bazelrc.local
