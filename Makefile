# clipguide: `make help` lists what there is.
.DEFAULT_GOAL := help
.PHONY: help demo test check format install install-dev clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Two test processes of one thread each: on two cores the tiny models of the tests are bound by
# Python, so a second process is worth more than a second thread.
TEST_JOBS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# glibc keeps what torch frees (see clipguide/cli/allocator.py); other allocators ignore these.
KEEP_MEMORY := MALLOC_TRIM_THRESHOLD_=2147483647 MALLOC_MMAP_MAX_=0

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## *' '{printf "make %-13s %s\n", $$1, $$2}'

demo: $(VENV)/.installed  ## 8 prompts, unguided and searched by CLIP, on the bundled starter model; pictures in demo/
	@rm -rf demo
	$(BIN)/clipguide demo --out demo

test: check  ## make check, then every test with coverage
	$(ONE_THREAD) $(KEEP_MEMORY) $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal \
	    --cov=clipguide --cov-report=term --durations=15

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

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "clipguide needs Python 3.10 or newer: make PYTHON=/path/to/python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed

clean:  ## remove what the commands here made (the environment too)
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
