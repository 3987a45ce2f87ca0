# clipguide: `make help` lists what there is.
.DEFAULT_GOAL := help
.PHONY: help demo test test-floor check format install install-dev install-floor clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FLOOR  := .venv-floor
# Two test processes of one thread each: on two cores the tiny models of the tests are bound by
# Python, so a second process is worth more than a second thread.
TEST_JOBS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# glibc keeps what torch frees (see clipguide/cli/allocator.py); other allocators ignore these.
KEEP_MEMORY := MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0
NEW_ENOUGH := $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
    { echo "clipguide needs Python 3.10 or newer: make PYTHON=/path/to/python3.12 ..." >&2; exit 2; }

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## *' '{printf "make %-13s %s\n", $$1, $$2}'

demo: $(VENV)/.installed  ## 8 prompts, unguided and guided by CLIP, on the bundled starter model; pictures in demo/
	@rm -rf demo
	$(BIN)/clipguide demo --out demo

test: check  ## make check, then every test with coverage
	$(ONE_THREAD) $(KEEP_MEMORY) $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal \
	    --cov=clipguide --cov-report=term --durations=15

# TESTS="tests/test_scorer.py ..." runs some of them.
TESTS ?=
test-floor: $(FLOOR)/.installed-dev  ## the tests in an environment at exactly the lowest versions, tests/floor.txt
	$(ONE_THREAD) $(KEEP_MEMORY) $(FLOOR)/bin/python -m pytest -n $(TEST_JOBS) --dist worksteal $(TESTS)

check: $(VENV)/.installed-dev  ## ruff, pyright (strict), import-linter (the layers)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## let ruff put imports and layout right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.installed  ## the package in .venv
install-dev: $(VENV)/.installed-dev  ## the package and what the tests need in .venv
install-floor: $(FLOOR)/.installed-dev  ## the same at exactly the lowest versions in .venv-floor

$(BIN)/python:
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(FLOOR)/.installed-dev: pyproject.toml tests/floor.txt
	@$(NEW_ENOUGH)
	$(PYTHON) -m venv --clear $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet --disable-pip-version-check -c tests/floor.txt -e '.[dev]'
	@touch $@

clean:  ## remove what the commands here made (the environment too)
	rm -rf $(VENV) $(FLOOR) demo build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
