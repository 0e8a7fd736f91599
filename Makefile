# Every target sets up what it needs. Only Python 3.12 or 3.13, or uv, has to be there first.
SHELL := bash
PYTHON := .venv/bin/python
# Test processes that run at a time.
JOBS ?= 2
# More arguments for pytest, for example: make test PYTEST_ARGS="-k canvas"
PYTEST_ARGS ?=
# More arguments for the demo, for example: make demo DEMO_ARGS="--seconds=30 --workdir=out/short"
DEMO_ARGS ?=
# More arguments for `bazel test`, for example: make bazel-test BAZEL_ARGS=--test_tag_filters=-slow
BAZEL_ARGS ?=

PYTEST := $(PYTHON) -m pytest -n $(JOBS) --dist loadfile
BENCHMARKS = $(shell grep -l __main__ benchmarks/*.py)

# Images of containers often forbid bytecode files; every process would compile its packages anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-core rollout lint format bench bazel-test build-files lock setup setup-all clean

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## Record, train, evaluate and report, on this machine; leaves out/demo/report.html.
	@./bootstrap.sh core
	@$(PYTHON) -m launch.demo $(DEMO_ARGS)

test: setup-all ## Every test; includes the parity tests against torch (3.5 GB of packages).
	$(PYTEST) $(PYTEST_ARGS)

test-core: setup ## Every test that needs neither torch nor lerobot.
	$(PYTEST) -m "not bridge" $(PYTEST_ARGS)

rollout: setup ## The tabletop policy of the repository for one episode; needs no torch.
	$(PYTHON) -m launch.evaluate --checkpoint=robots/tabletop/policy \
	  --config=configs/rollout.py:tabletop --config.episodes=1 --capture=reduce=patch_map \
	  --workdir=out/rollout/$$(date +%s)

lint: setup ## Formatting, lint rules, types, and which package may import which.
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pyright
	$(PYTHON) -m pytest -q tests/repository/arrows_test.py

format: setup ## Format the sources and repair what the linter can.
	$(PYTHON) -m ruff check --fix-only --quiet .
	$(PYTHON) -m ruff format .

bench: setup-all ## Every benchmark, one after the other.
	@set -e; for file in $(BENCHMARKS); do \
	  module=$${file%.py}; echo "== $$file"; $(PYTHON) -m "$${module//\//.}"; \
	done

bazel-test: setup-all ## The same tests under Bazel, without network.
	@third_party/bazel/configure.sh
	bazel test $(BAZEL_ARGS) //...

build-files: setup ## Derive the BUILD files from the imports.
	$(PYTHON) -m third_party.bazel.build_files

lock: ## Resolve pyproject.toml into requirements/*.lock; needs uv.
	@third_party/locks.sh
	@./bootstrap.sh core
	$(PYTHON) -m third_party.licences

setup: ## Install what developing needs, without torch.
	@./bootstrap.sh dev

setup-all: ## Install everything, with torch and lerobot.
	@./bootstrap.sh bridge

clean: ## Remove results and caches; keeps .venv.
	rm -rf out .cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
