# `make evaluate` trains, attacks and reports; `make test` proves that all of it works. Both need Python >= 3.11 only.

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
INSTALLED := .venv/installed

# Waiting OpenMP threads that spin take the cores from the processes that work: attacks get ten times slower.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: evaluate test test-slow test-gpu benchmark lint protos lock install clean help

help:            ## Say what there is to make.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

evaluate: $(INSTALLED)   ## Install, then attack a ResNet-50 with PGD and write a report into afr-report/.
	$(BIN)/afrctl evaluate --model resnet50 --attack pgd --output afr-report

install: $(INSTALLED)    ## Make .venv with everything in it, as constraints.txt pins it.

$(INSTALLED): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"afr needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; call make PYTHON=python3.12")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	@echo 'Installing the packages that constraints.txt pins; torch and its CUDA libraries are about 5 GB.'
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --require-hashes -r constraints.txt
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

test: $(INSTALLED) lint  ## Lint, check types and contracts, run every test but the slow ones and those for a GPU.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not gpu' $(PYTEST)

test-slow: $(INSTALLED)  ## Run the slow tests too.
	$(BIN)/python -m pytest -m 'not gpu' $(PYTEST)

test-gpu: $(INSTALLED)   ## Run the tests that need a CUDA device.
	$(BIN)/python -m pytest -m gpu tests/gpu $(PYTEST)

.venv/peers: benchmarks/peers.txt $(INSTALLED)
	$(BIN)/uv pip install --quiet --no-deps --require-hashes --target $@ -r benchmarks/peers.txt
	@touch $@

benchmark: .venv/peers   ## Time every attack beside the other libraries: half an hour; BENCHMARK=--quick takes a minute.
	PYTHONPATH=.venv/peers OMP_NUM_THREADS=1 $(BIN)/python benchmarks/attack_throughput.py $(BENCHMARK)

lint: $(INSTALLED)       ## Check style, types, the import contracts and the protos.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code

protos: $(INSTALLED)     ## Generate the code beside the protos.
	$(BIN)/python -m grpc_tools.protoc -Iprotos --python_out=protos --grpc_python_out=protos \
		--plugin=$(BIN)/protoc-gen-mypy --plugin=$(BIN)/protoc-gen-mypy_grpc \
		--mypy_out=quiet:protos --mypy_grpc_out=quiet:protos protos/afr/*/v1/*.proto

lock: $(INSTALLED)       ## Write constraints.txt anew from pyproject.toml, keeping the versions it has where they fit.
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --extra dev --python-version 3.11 \
		--no-header --no-annotate --no-emit-index-url --output-file constraints.txt pyproject.toml

clean:                   ## Remove the environment and everything generated.
	rm -rf .venv build dist *.egg-info afr-report .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
