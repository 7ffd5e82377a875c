# Two commands matter: `make run` shows the gateway at work, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHART := helm/mesolive-gateway
SECONDS ?= 300
BROKER ?= jetstream
# Tests mostly wait, so more files run at once than there are cores; each worker starts brokers of its own.
WORKERS ?= 3

.PHONY: help install run test test-long requirements fuzz bench bench-idle chaos takeover check schemas manifests lock packages sbom audit docs pictures format clean

help: ## say what there is; what each command takes is in its line
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

install: $(STAMP) ## .venv with everything that development needs, pinned by hash

$(STAMP): requirements.lock pyproject.toml gateway/__init__.py
	$(PYTHON) -c 'import sys; sys.exit("the gateway needs Python 3.11 or later, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

run: install ## the demo: simulator, embedded nats-server, gateway; ARGS="--events 20000" passes arguments on
	$(BIN)/gateway demo $(ARGS)

PYTEST := PYTHONHASHSEED=0 $(BIN)/python -m pytest # a seed of a simulation is repeated with the same order of sets
SHARED_OUT := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
NONE_OF_THESE := [ $$? -eq 5 ] # pytest's exit code where ARGS names no test of a part

test: install check requirements ## lint, types, layers, schemas, and all promises on real components: 25 minutes on two cores
	$(PYTEST) -m "not alone and not long" $(SHARED_OUT) $(ARGS) || $(NONE_OF_THESE)
	$(PYTEST) -m "alone and not long" $(ARGS) || $(NONE_OF_THESE)

test-long: install requirements ## at full size, one by one: 50,000 events, whole rounds of chaos, 5,000 accounts, fuzz; half an hour
	$(PYTEST) -m long $(ARGS)

requirements: install ## say what the tests need and lack, with the line that installs it, and fetch the rest
	$(BIN)/python -m tests.support.requirements

fuzz: install ## 200 requests of each operation of the API, right and wrong ones; EXAMPLES=1000 asks more
	MESOLIVE_TEST_FUZZ_EXAMPLES=$(or $(EXAMPLES),200) $(PYTEST) --timeout 7200 -m long tests/acceptance/test_api_fuzz.py

bench: install ## the gateway beside its baselines; ARGS="--only jetstream" chooses, ARGS=--help tells more
	$(BIN)/python -m benchmarks.bench $(ARGS)

bench-idle: install ## what 5,000 accounts cost that have nothing to do; ARGS="--tls", ARGS=--help tells more
	$(BIN)/python -m benchmarks.idle $(ARGS)

chaos: install ## three replicas under blows: make chaos SECONDS=600 BROKER=kafka SEED=7; exit code 1 where not exact
	$(BIN)/python -m tools.chaos --seconds $(SECONDS) --broker $(BROKER) $(if $(SEED),--seed $(SEED))

takeover: install ## how long accounts are silent when a replica is killed or ends: make takeover BROKER=kafka BUSY=3
	$(BIN)/python -m tools.takeover --broker $(BROKER) --busy $(or $(BUSY),0) $(ARGS)

# tools/make_settings_page.py makes docs/reference/settings.md, and so on: script:page
REFERENCE := settings:settings metrics:metrics cli:cli api:http-api errors:errors
check: install ## lint, types, layers, and whether what is generated is fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_language.py gateway tests benchmarks examples tools
	$(BIN)/python tools/check_sizes.py gateway
	$(BIN)/python tools/check_class_names.py gateway
	$(BIN)/gateway schemas --check
	set -e; for page in $(REFERENCE); do $(BIN)/python tools/make_$${page%%:*}_page.py | diff -u docs/reference/$${page##*:}.md -; done # stale? run: make schemas
	$(BIN)/python tools/make_chart_files.py values | diff -u $(CHART)/values.yaml - # likewise
	$(BIN)/python tools/make_chart_files.py schema | diff -u $(CHART)/values.schema.json - # likewise
	$(BIN)/python tools/make_chart_files.py readme | diff -u $(CHART)/README.md - # likewise

schemas: install ## write schemas/, the pages of docs/reference and the chart's values from the code
	$(BIN)/gateway schemas
	set -e; for page in $(REFERENCE); do $(BIN)/python tools/make_$${page%%:*}_page.py > docs/reference/$${page##*:}.md; done
	$(BIN)/python tools/make_chart_files.py values > $(CHART)/values.yaml
	$(BIN)/python tools/make_chart_files.py schema > $(CHART)/values.schema.json
	$(BIN)/python tools/make_chart_files.py readme > $(CHART)/README.md

manifests: install ## write k8s/ from the chart; HELM=… names Helm
	$(BIN)/python tools/make_manifests.py k8s

format: install ## fix what lint can fix by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PIN := $(BIN)/uv pip compile --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet
IN_IMAGE := $(PIN) --python-platform linux --constraint requirements.lock
lock: install ## pin every dependency with its hashes; what an image holds, and what builds it, are a part of them
	$(PIN) --universal pyproject.toml --all-extras --group dev --upgrade --output-file requirements.lock
	$(IN_IMAGE) pyproject.toml --output-file requirements-image.lock
	$(IN_IMAGE) pyproject.toml --extra tracing --output-file requirements-image-tracing.lock
	$(IN_IMAGE) --group image --output-file requirements-build.lock
	$(PIN) --universal --group release --upgrade --output-file requirements-release.lock
	$(PIN) --universal --group docs --upgrade --output-file requirements-docs.lock

pictures: install ## draw docs/images: diagrams, and the terminal and dashboard of a real run; needs Prometheus, as the tests do
	$(BIN)/python tools/draw_diagrams.py
	$(BIN)/python tools/record_terminal.py
	$(BIN)/python -m tools.draw_dashboard

SITE := .venv-docs
$(SITE)/.installed: requirements-docs.lock
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip install --quiet --require-hashes -r requirements-docs.lock
	touch $@

docs: $(SITE)/.installed ## the documentation as a site, in site/; fails on a link that leads nowhere
	$(SITE)/bin/mkdocs build --strict --quiet $(ARGS)

RELEASE := .venv-release
$(RELEASE)/.installed: requirements-release.lock
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --require-hashes -r requirements-release.lock
	touch $@

packages: ## dist/: wheel and source distribution, built with what requirements-build.lock pins
	$(PYTHON) -m venv $(RELEASE)/build
	$(RELEASE)/build/bin/python -m pip install --quiet --require-hashes -r requirements-build.lock
	$(RELEASE)/build/bin/python -m hatchling build -d dist

SBOM := $(RELEASE)/bin/cyclonedx-py requirements --pyproject dist/pyproject.toml --mc-type application --output-reproducible
sbom: $(RELEASE)/.installed ## dist/sbom.cdx.json and dist/sbom-tracing.cdx.json: the packages of both images, as CycloneDX
	mkdir -p dist
	VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' gateway/__init__.py) && \
		sed "s/^dynamic = .*/version = \"$$VERSION\"/" pyproject.toml > dist/pyproject.toml
	$(SBOM) --output-file dist/sbom.cdx.json requirements-image.lock
	$(SBOM) --output-file dist/sbom-tracing.cdx.json requirements-image-tracing.lock
	rm dist/pyproject.toml

LOCKS := $(addsuffix .lock,requirements-image-tracing requirements requirements-build requirements-release requirements-docs)
audit: $(RELEASE)/.installed ## known vulnerabilities of everything that the locks pin; asks a public database
	$(RELEASE)/bin/python tools/audit_locks.py $(LOCKS)

clean: ## take away what was installed and built
	rm -rf $(VENV) $(RELEASE) $(SITE) site dist .mypy_cache .ruff_cache .pytest_cache .hypothesis tests/foreign/node_modules
