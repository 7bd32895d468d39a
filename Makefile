# Two commands for a new user: `make demo` and `make test`. Each sets up what it needs and then does its job.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Tests that start no cluster of their own run side by side, test by test; those of services and clusters, and those
# that kill processes, file by file.
SERVED := $(addprefix tests/,services runs cluster pipelines)
QUICK  := tests/test_imports.py $(addprefix tests/,values archive cube models inference store products refine assessment training)

.PHONY: demo test test-long lint venv clean

demo: $(STAMP)  ## make a simulated archive, train, map, score: one picture at the end
	$(BIN)/landweave demo

test: $(STAMP) lint  ## the fast tests, and those of every service that is installed
	$(BIN)/python -m pytest -q --doctest-modules engine pipelines cluster training $(QUICK) -m "not long" -n 2 --dist loadscope --durations=25
	$(BIN)/python -m pytest -q $(SERVED) -m "not long" -n 2 --dist loadfile --durations=20
	$(BIN)/python -m pytest -q tests/faults -m "not long" -n 2 --dist loadfile --durations=10

test-long: $(STAMP)  ## random kills and scale
	$(BIN)/python -m pytest -q tests -m long --timeout 3600

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

venv: $(STAMP)

# The constraints are what was tested; the stamp makes a second call reuse the environment.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e ".[dev]"
	# Not installed: it asks for another Dask. A test holds what we call against its source.
	-$(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/wheels dask-cuda==26.10.0
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
