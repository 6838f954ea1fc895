# The only entry point. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := .:gen
# Tests start the services many times: without their bytecode each start would compile them anew, for most of a second.
unexport PYTHONDONTWRITEBYTECODE
# One process a core, up to four; tests/distribution.py says who gets what. One that dies ends the run.
IN_PROCESSES := -n logical --maxprocesses 4 --no-loadscope-reorder --max-worker-restart 0
PROTOS := $(shell find proto/turnpike -name '*.proto')
.DEFAULT_GOAL := help
.PHONY: help setup up test explore lint format types proto bench docs jwt lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "turnpike needs Python 3.11 or later: set PYTHON")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/runtime: $(VENV)/pip requirements/runtime.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/runtime.txt
	@touch $@

$(VENV)/dev: $(VENV)/chroma requirements/dev.txt requirements/sdk-previous.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade --target $(VENV)/sdk-previous -r requirements/sdk-previous.txt
	@touch $@

$(VENV)/chroma: $(VENV)/runtime requirements/chroma.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/chroma.txt
	@touch $@

# The demo's Chroma server is half a gigabyte: not installed where a server is named.
ifeq ($(CHROMA_BASE_URL)$(CHROMA_API_BASE),)
CHROMA_SERVER := $(VENV)/chroma
endif

# Google's protos come with the package googleapis-common-protos.
gen/turnpike.pb: $(VENV)/runtime $(PROTOS)
	@rm -rf gen && mkdir -p gen
	$(BIN)/python -m grpc_tools.protoc -I proto -I $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') --include_imports --include_source_info --descriptor_set_out=gen/turnpike.pb.new \
		--python_out=gen --grpc_python_out=gen --mypy_out=quiet:gen --mypy_grpc_out=quiet,only_async:gen \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc $(PROTOS)
	@mv gen/turnpike.pb.new gen/turnpike.pb

setup: $(VENV)/dev gen/turnpike.pb ## install everything and generate code

proto: gen/turnpike.pb ## generate code from proto/

up: $(VENV)/runtime $(CHROMA_SERVER) gen/turnpike.pb ## start the gateway on 127.0.0.1:8080
	@exec $(BIN)/python -m deploy.local

test: setup ## run every test
	$(BIN)/python -m pytest $(IN_PROCESSES)

# A test with a thousand examples may take minutes, and one that fails five more until its example is small.
explore: setup ## property tests with new examples
	$(BIN)/python -m pytest $(IN_PROCESSES) -m hypothesis --hypothesis-profile=explore -o faulthandler_timeout=3600

lint: setup ## ruff and buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint gen/turnpike.pb#format=binpb --config proto/buf.yaml

format: setup ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup ## mypy --strict
	$(BIN)/mypy

bench: setup ## measure speed as ratios inside one run
	$(BIN)/python -m bench

docs: setup ## write docs/configuration.md from the settings
	$(BIN)/python -m deploy.settings_reference

jwt: $(VENV)/runtime ## print a platform JWT: make jwt USER_ID=alice
	@$(BIN)/python -m deploy.local.jwt "$(USER_ID)"

lock: ## renew the locks (needs uv)
	sh requirements/lock.sh --upgrade

clean: ## remove what was generated and all local state
	rm -rf gen .turnpike .pytest_cache .mypy_cache .ruff_cache .hypothesis
