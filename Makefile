# Two commands matter: `make run` shows the gateway at work, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install run test bench check schemas lock format clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml gateway/__init__.py
	$(PYTHON) -c 'import sys; sys.exit("the gateway needs Python 3.11 or later, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

run: install ## the demo: simulator, embedded nats-server, gateway; ARGS="--events 20000" passes arguments on
	$(BIN)/gateway demo $(ARGS)

test: install check ## everything: lint, types, layers, schemas, and all tests on real components
	$(BIN)/python -m pytest $(ARGS)

bench: install ## the gateway beside its baselines; ARGS="--only jetstream" chooses, ARGS=--help tells more
	$(BIN)/python benchmarks/bench.py $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/gateway schemas --check
	$(BIN)/python docs/make_settings_page.py | diff -u docs/settings.md - # stale? run: make schemas

schemas: install ## write schemas/ and docs/settings.md from the models and the settings
	$(BIN)/gateway schemas
	$(BIN)/python docs/make_settings_page.py > docs/settings.md

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install ## pin every dependency with its hashes
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --upgrade --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/foreign/node_modules
