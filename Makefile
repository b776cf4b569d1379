# Every target makes .venv by itself when it is missing or older than what it should contain.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo
export OMP_WAIT_POLICY := PASSIVE  # threads that wait do not take a core from those that work
unexport PYTHONDONTWRITEBYTECODE  # the processes of the tests read what the first of them compiled
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadscope

FUZZ_SECONDS ?= 3600
FUZZ_SEED ?=

.PHONY: setup demo test test-fast test-numerics fuzz style quality docs dist bench bench-quick figures compat tools clean

CHECK_PYTHON := $(PYTHON) -c 'import sys; sys.exit("constraints.txt pins versions for Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.venv/installed: setup.cfg constraints.txt pyproject.toml
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[dev]"
	touch $@

.venv/demo: setup.cfg constraints.txt pyproject.toml
	@$(CHECK_PYTHON)
	@test -e .venv/installed || { $(PYTHON) -m venv .venv && $(INSTALL) ".[demo]"; }
	touch $@

setup: .venv/installed  ## everything that development needs, in .venv

demo: .venv/demo  ## train a small model on the source of Python, draw where it thinks, let it write (80 seconds on 2 idle cores)
	$(BIN)/hf-thoughtbubbles demo --output-dir $(RUN)

test: .venv/installed  ## all tests, under 15 minutes on 2 cores
	$(PYTEST) --no-loadscope-reorder

test-fast: .venv/installed  ## the quick tests, with the first models of each family, about 4 minutes on 2 cores
	$(PYTEST) --dist worksteal -m "not slow and not thorough"

# Rounding differs between processors, and no promise may depend on it. `make test` uses the best instructions that the
# processor has, these runs use older ones. Errors are left out: their messages do not depend on rounding.
NUMERIC_TESTS := --dist worksteal -m "not slow" -k "not (refused or error)" tests/contract tests/modeling
test-numerics: .venv/installed  ## contract, cache and parity tests with SSE 4.2 and with AVX2
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 ONEDNN_MAX_CPU_ISA=SSE41 $(PYTEST) $(NUMERIC_TESTS)
	ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(NUMERIC_TESTS)

fuzz: .venv/installed  ## drawn models of every family against the promises, for FUZZ_SECONDS (an hour), from FUZZ_SEED (drawn)
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.fuzz.run_fuzz --seconds $(FUZZ_SECONDS) --seed "$(FUZZ_SEED)" --processes 2

style: .venv/installed  ## format, and repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: .venv/installed  ## style, types, and counts of operations
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) bench-quick

docs: .venv/installed  ## check the links and the examples of the documentation
	$(PYTEST) tests/docs

dist: .venv/installed  ## build sdist and wheel in dist/, check them, and install the wheel in an empty environment
	rm -rf dist build
	@test -z "$(TAG)" || test "$(TAG)" = "v$$($(BIN)/python -c 'import hf_thoughtbubbles; print(hf_thoughtbubbles.__version__)')" \
		|| { echo "TAG=$(TAG) was passed, but it must be v and the version in version.py"; exit 1; }
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv --clear build/empty
	build/empty/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd build && empty/bin/python ../tests/dist/check_wheel.py

bench: .venv/installed  ## every claim about speed or memory, measured side by side
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/thinking.py
	$(BIN)/python benchmarks/static_cache.py
	$(BIN)/python benchmarks/bytes.py
	$(BIN)/python benchmarks/packing.py
	$(BIN)/python benchmarks/loading.py

# Accept counts that changed with COUNTS=--update.
bench-quick: .venv/installed  ## operations, FLOPs, bytes and graph breaks of every family against those in the repository
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/step_counts.py $(COUNTS)

figures: .venv/installed  ## pictures of growth from benchmarks/growth.json, in docs/results/figures
	$(BIN)/python benchmarks/growth.py --draw

compat: .venv/installed  ## models saved now, under the oldest and the newest transformers (10 minutes at first, then 5)
	$(BIN)/python -m tests.compat.compare_versions

# The environment reads the packages of .venv and adds its own, so that the tests of `make test` do not import them.
.cache/tools/installed: .venv/installed tests/tools/requirements.txt
	$(BIN)/python -m venv --clear .cache/tools
	.cache/tools/bin/python -c 'import sys, sysconfig; open(sysconfig.get_path("purelib") + "/development.pth", "w").write(f"import site; site.addsitedir({sys.argv[1]!r})")' \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	grep -vE '^(pillow|importlib_metadata)==' constraints.txt > .cache/tools/constraints.txt  # the trackers need older ones
	.cache/tools/bin/pip install --quiet --disable-pip-version-check --constraint .cache/tools/constraints.txt --requirement tests/tools/requirements.txt
	touch $@

tools: .cache/tools/installed  ## the tests of heavy tools (quantisation, trackers, merging, evaluation), which `make test` does not run
	.cache/tools/bin/python -m pytest tests/tools/check_*.py

clean:
	rm -rf .venv runs .cache build dist
