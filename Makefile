# From a fresh clone, each target installs what it needs into .venv and starts its own services.
SHELL := /bin/bash
UV := .tools/bin/uv
PY := .venv/bin/python
STAMP := .venv/.installed
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PLAYWRIGHT_BROWSERS_PATH := $(CURDIR)/.tools/browsers
# A settings module or path of the caller's project is none of our business.
unexport DJANGO_SETTINGS_MODULE
unexport PYTHONPATH

# The newest Django is in .venv, the other one that is supported here.
OTHER := .venv-django-6.0

# Its makers announce a successor at each start.
MKDOCS = NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs
MIKE = NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/.venv/bin:$$PATH" mike

# DJANGO=6.0 runs the tests on that one.
TEST_PY = $(if $(filter 6.0,$(DJANGO)),$(OTHER)/bin/python,$(PY))
TEST_READY = $(STAMP) $(if $(filter 6.0,$(DJANGO)),$(OTHER)/.installed)
# One file has nothing to share out.
ONE_FILE = $(filter 1,$(words $(filter tests/%.py,$(ARGS))))
PYTEST = $(TEST_PY) -m pytest -n $(or $(WORKERS),$(if $(ONE_FILE),0,2)) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup wheel dist demo docs docs-serve docs-publish pictures reference test test-all lint unit publish slow stress ticks gates soak bench long-bench autoscaler-test compose-test nodes-test lock clean

help: ## Show the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

setup: $(STAMP) ## Install everything into .venv.

wheel: $(STAMP) ## Build the wheel into dist/.
	@rm -f dist/*.whl
	@$(PY) -m hatchling build -t wheel

dist: $(STAMP) ## Build what is published, wheel and sdist, into dist/, and check it.
	@rm -f dist/*
	@$(PY) -m hatchling build
	@$(PY) -m twine --no-color check --strict dist/*

publish: $(STAMP) ## Upload dist/, in a workflow that the index trusts; RELEASE_TAG is the tag of this version.
	@test "$(RELEASE_TAG)" = "v$$($(PY) -m hatchling version)" || { echo "$(RELEASE_TAG) is not the version." >&2; exit 1; }
	@$(UV) publish --trusted-publishing always dist/*

demo: $(STAMP) ## Start PostgreSQL and Ray, run real tasks, show what happens.
	@$(PY) example/demo.py

docs: $(STAMP) ## Build the site of docs/ into site/; dead links, pages and anchors are errors.
	@$(MKDOCS) build --quiet

# REF=v0.2.1 is shown as 0.2, and as latest unless there is a newer tag; anything else as dev.
docs-publish: $(STAMP) ## Add the site to the branch gh-pages of origin, beside those of other versions.
	@release=$$(printf %s "$$REF" | sed -nE 's/^v([0-9]+\.[0-9]+)\.[0-9]+$$/\1/p'); \
	newest=$$({ git tag --list 'v*'; printf '%s\n' "$$REF"; } | grep -E '^v[0-9.]+$$' | sort -V | tail -n 1); \
	latest=$$([ -z "$$release" ] || [ "$$newest" != "$$REF" ] || echo latest); \
	$(MIKE) --quiet deploy --push --update-aliases --alias-type copy $${release:-dev} $$latest && \
	if [ -n "$$latest" ]; then $(MIKE) --quiet set-default --push latest; fi

pictures: $(STAMP) ## Take the pictures of the admin in docs/pictures anew.
	@mkdir -p docs/pictures
	@DJANGO_RAY_PICTURES=$(CURDIR)/docs/pictures $(PY) -m pytest -q tests/browser/test_pages_for_everybody.py -k pictures

docs-serve: $(STAMP) ## Show it, and follow edits, at http://127.0.0.1:8001.
	@$(MKDOCS) serve --dev-addr 127.0.0.1:8001

reference: $(STAMP) ## Write docs/reference/commands.md from the commands.
	@$(PY) scripts/reference_commands.py

test: lint unit ## All checks and tests, without the slow ones.

test-all: test slow $(OTHER)/.installed ## And the slow ones, which break Ray; and the others on the other Django.
	@$(MAKE) --no-print-directory unit DJANGO=6.0

lint: $(STAMP) docs ## Style, types, import rules, prose, the site, container files, workflows.
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/lint-imports --no-cache > .venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@$(PY) -m mypy
	@$(PY) -m mypy tests/typed/api.py
	@.venv/bin/pyright
	@.venv/bin/hadolint --no-color $(shell git ls-files '*Dockerfile')
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec $(shell git ls-files '*docker-compose.yml')
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	@.venv/bin/zizmor --offline --quiet --no-progress .github > .venv/zizmor.log || { cat .venv/zizmor.log; exit 1; }
	@$(PY) scripts/check_prose.py

unit: $(TEST_READY) ## The tests, in WORKERS (2) processes, each with modules of its own. ARGS="-k name" selects.
	@$(TEST_PY) scripts/fetch_django_tests.py "$$(sh scripts/find-python)"
	@$(PY) scripts/find_chromium.py
	@$(PY) scripts/fetch_promtool.py
	@$(PYTEST) -m "not slow and not alone" $(ARGS)

slow: $(STAMP) ## The tests that take half a minute or more each, most of them because they break Ray.
	@$(PY) scripts/fetch_django_tests.py "$$(sh scripts/find-python)"
	@$(PY) scripts/find_chromium.py
	@$(PY) scripts/fetch_promtool.py
	@$(PYTEST) -m slow $(ARGS)

stress: $(STAMP) ## The doorbell's stress test in its long form.
	@DJANGO_RAY_STRESS=long $(PY) -m pytest tests/test_doorbell_stress.py $(ARGS)

ticks: $(STAMP) ## Five supervisors, a schedule a second, SIGKILL at random, for five minutes: each tick once.
	@DJANGO_RAY_STRESS=long $(PY) -m pytest -s tests/test_ticks_stress.py $(ARGS)

gates: $(STAMP) ## Eight supervisors, fifty gates, SIGKILL and SIGSTOP at random, for five minutes: never more than may.
	@DJANGO_RAY_STRESS=long $(PY) -m pytest -s tests/test_gates_stress.py $(ARGS)

soak: $(STAMP) ## Random tasks and random faults for MINUTES (5), and a ledger of what was lost. ARGS="--seed 1".
	@PYTHONPATH=.:example $(PY) -m tests.chaos.soak --minutes $(or $(MINUTES),5) $(ARGS)

bench: $(STAMP) ## Benchmarks; PEERS=1 compares with other task queues. ARGS="--parts A" selects.
	@PYTHONPATH=.:example $(PY) -m benchmarks $(if $(PEERS),--peers) $(ARGS)

long-bench: $(STAMP) ## Half load for MINUTES (15) with pruning: does it stay as it was?
	@PYTHONPATH=.:example $(PY) -m benchmarks --parts L --minutes $(or $(MINUTES),15) $(ARGS)

compose-test: $(STAMP) ## docker-compose.yml for real; COMPOSE names the command (default: docker compose).
	@PYTHONPATH=. $(PY) -m tests.compose.drive $(ARGS)

autoscaler-test: $(STAMP) ## Beside Ray's own autoscaler. Alone: Ray gives a node 30 s to start, and does not try again.
	@$(PY) -m pytest -q -s -m alone tests/test_autoscaling.py $(ARGS)

nodes-test: $(STAMP) ## Hosts of a Ray cluster killed and paused under load, in containers; COMPOSE as above.
	@PYTHONPATH=.:example $(PY) -m tests.nodes.drive $(ARGS)

lock: $(UV) ## Renew requirements.lock.
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.12 --generate-hashes --no-header --no-annotate \
		--all-extras --group dev pyproject.toml --output-file requirements.lock

clean: ## Remove what was installed and built.
	@rm -rf .venv $(OTHER) .tools dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(UV):
	@echo "Installing uv into .tools ..."
	@"$$(sh scripts/find-python)" -m pip install --quiet --target .tools uv \
		|| python3 -m pip install --quiet --target .tools uv

$(STAMP): $(UV) requirements.lock pyproject.toml
	@test -x $(PY) || $(UV) venv --quiet --python "$$(sh scripts/find-python)" .venv
	@echo "Installing the locked packages into .venv ..."
	@$(UV) pip sync --quiet --python $(PY) --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(PY) --no-deps --editable .
	@touch $(STAMP)

$(OTHER)/.installed: $(STAMP)
	@test -x $(OTHER)/bin/python || $(UV) venv --quiet --python "$$(sh scripts/find-python)" $(OTHER)
	@echo "Installing them with Django 6.0 into $(OTHER) ..."
	@$(UV) pip sync --quiet --python $(OTHER)/bin/python --require-hashes requirements.lock
	@$(UV) pip install --quiet --python $(OTHER)/bin/python --no-deps "django==6.0.*" --editable .
	@touch $@
