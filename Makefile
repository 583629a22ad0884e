# Every target runs from the repository's root; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup gen gen-check stubs fmt lint types arch test run stop restart status logs lock \
        lock-check verify clean
.PHONY: bench bench-peer soak
.PHONY: compose-up compose-down compose-test

BIN := .venv/bin
COMPOSE ?= docker compose
LOCAL := $(BIN)/python deploy/local/local.py

ifeq ($(origin MODEL),command line)
export CARAVAN_MODEL := $(MODEL)
endif

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: ## create .venv with everything in it (CARAVAN_CMAKE_ARGS=-DGGML_CUDA=on for a GPU)
	@tools/setup

run: setup ## start the four services and send a first chat (MODEL=/path/to/model.gguf)
	@$(LOCAL) up

stop: ## stop the services
	@$(LOCAL) down

restart: setup ## stop, then run
	@$(LOCAL) down
	@$(LOCAL) up

status: ## show whether each service runs and is ready
	@$(LOCAL) status

logs: ## show the services' logs (SERVICE=engine for one)
	@$(LOCAL) logs $(SERVICE)

gen: setup ## generate libs/protos from protos
	@$(BIN)/python tools/generate.py write

gen-check: setup ## fail when libs/protos isn't what protos give
	@$(BIN)/python tools/generate.py check

stubs: setup ## generate stubs for other languages into build/stubs (LANGUAGES='go java' for some)
	@$(BIN)/python tools/stubs.py $(LANGUAGES)

fmt: setup ## format, and mend what the linters can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/buf format --write protos

lint: setup ## ruff and buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos

types: setup ## mypy, strict
	$(BIN)/mypy

arch: setup ## import-linter: which code may import which
	$(BIN)/lint-imports

test: setup ## all tests (ARGS='-k name' for some)
	$(BIN)/python -m pytest $(ARGS)

soak: export CARAVAN_SOAK_DEATHS ?= 200
soak: export CARAVAN_SOAK_PAUSES ?= 50
soak: setup ## random events, deaths and pauses, for 25 minutes (CARAVAN_SOAK_S=120 CARAVAN_SOAK_DEATHS=200)
	$(BIN)/python -m pytest -m soak --capture=no --timeout=0 services/engine/tests
	$(BIN)/python -m pytest tests/e2e/test_deaths.py --override-ini faulthandler_timeout=0 $(ARGS)

bench-peer: setup ## build llama-server of the same llama.cpp into build/peer, once
	@$(BIN)/python tests/bench/peer.py

bench: bench-peer ## Caravan beside llama-server, in alternation (ARGS='--quick --workload distinct')
	@$(BIN)/python tests/bench/bench.py $(ARGS)

lock: setup ## write the lock files anew (UPGRADE=1 for newer versions)
	@$(BIN)/python tools/locks.py compile $(if $(UPGRADE),--upgrade)

lock-check: setup ## fail when a lock isn't in step with its inputs or holds an address
	@$(BIN)/python tools/locks.py check

compose-up: ## build the images, start everything in containers and wait until it is ready
	@mkdir -p models
	$(COMPOSE) up --build --detach --wait
	@echo 'The admin key:  $(COMPOSE) exec -T policy cat /data/admin.key'

compose-down: ## stop the containers; the data stays (docker compose down --volumes removes it)
	$(COMPOSE) down

compose-test: setup ## build and start the containers, call, kill, call again, and remove them
	CARAVAN_COMPOSE_TEST=1 $(BIN)/python -m pytest deploy/compose/tests --capture=no --verbose \
	    --override-ini faulthandler_timeout=0

verify: gen-check lock-check lint types arch test ## everything that CI checks

clean: ## remove caches and build outputs; .venv and .caravan stay
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find libs services deploy tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
