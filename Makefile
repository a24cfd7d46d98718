# The README's commands. Everything lives in .venv; `make clean` removes it and all that was built.
PYTHON ?= python3
# For tests and training on the CPU; another build can be named, e.g. make test TORCH=torch
TORCH ?= torch==2.13.0
BIN := .venv/bin
SOURCES := $(shell find model realtime bridge training src -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*')

.PHONY: demo test test-fast lint format bench plugin clean

demo: .venv/installed
	$(BIN)/stemwire separate examples/excerpt.opus -o out

# Numbers must not depend on how many threads add them up.
test test-fast: export OMP_NUM_THREADS ?= 1

# Tests that watch the clock, or hold devices and ports, have the machine for themselves.
test: .venv/tested-with lint
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not alone"
	$(BIN)/python -m pytest -m alone

test-fast: .venv/tested-with
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not alone and not slow"
	$(BIN)/python -m pytest -m "alone and not slow"

lint: .venv/tested-with
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p stemwire

format: .venv/tested-with
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/tested-with
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/speed.py --no-peers

# The plugin for DAWs, build/Stemwire.vst3. `pip install .` builds it too, where it can.
plugin:
	cmake -S bridge/plugin -B build/plugin -DBUNDLE_DIR=$(CURDIR)/build
	cmake --build build/plugin --parallel $$(nproc)

# A built copy is installed, not an editable one: mypy and the tests see what users get.
.venv/installed: .venv/made pyproject.toml setup.py $(SOURCES)
	rm -rf build/lib* build/bdist*
	$(BIN)/pip install --quiet --upgrade .
	touch $@

.venv/tested-with: .venv/installed
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet ".[live,train,bridge,dev]"
	rm -rf build/lib* build/bdist*
	touch $@

.venv/made:
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Stemwire needs Python 3.11 or newer with venv; on Debian: apt-get install python3-venv"; \
	  exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

clean:
	rm -rf .venv build dist out *.egg-info
