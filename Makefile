# The targets print themselves: make help
.DEFAULT_GOAL := help
.PHONY: help setup train recall dashboard test test-slow test-chaotic test-wheel test-cluster test-harness \
        test-transformers4 mutation chaos checks format wheel reference check-attention \
        bench bench-gate bench-growth bench-attention clean

export PIP_DISABLE_PIP_VERSION_CHECK = 1

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
BIN := .venv/bin
RUN := $(BIN)/python -m
PIP := $(RUN) pip install --quiet -c constraints.txt
DATA := data/stdlib
NAME ?= momentum

help:  ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: .venv/.ready  ## Install everything in .venv; train and test do it by themselves

train: .venv/.ready $(DATA)/manifest.json  ## Train and compare a vanilla and a momentum model
	$(RUN) momentum_gpt.train name=vanilla data=$(DATA) experiment=laptop attention=vanilla
	$(RUN) momentum_gpt.train name=momentum data=$(DATA) experiment=laptop attention=momentum
	$(RUN) momentum_gpt.evaluate run=runs/vanilla
	$(RUN) momentum_gpt.evaluate run=runs/momentum
	$(RUN) momentum_gpt.compare runs=[runs/vanilla,runs/momentum] published=dai2023

recall: .venv/.ready  ## Compare attention variants on associative recall, in minutes
	$(RUN) momentum_gpt.recall

dashboard: .venv/.ready  ## Watch the runs of runs/ in the browser, at http://127.0.0.1:8400/
	$(RUN) momentum_gpt.dashboard $(OPTIONS)

check-attention: .venv/.ready  ## Check a variant against its formula: NAME=momentum
	$(RUN) momentum_gpt.check_attention attention=$(NAME) $(OPTIONS)

bench: .venv/.ready-for-tests $(DATA)/manifest.json  ## Time training, evaluation and tokenization: PEERS=DIR
	$(PIP) -e '.[harness]'
	$(RUN) momentum_gpt.bench.training data=$(DATA) $(if $(PEERS),peers=$(PEERS)) $(OPTIONS)
	$(RUN) momentum_gpt.bench.evaluation text=$(DATA)
	$(RUN) data_prep.bench_tokenize

bench-gate: .venv/.ready-for-tests $(DATA)/manifest.json  ## Measure training against stored ratios
	$(RUN) momentum_gpt.bench.training data=$(DATA) processes=5 gate=tests/bench/speed.json $(OPTIONS)

bench-growth: .venv/.ready $(DATA)/manifest.json  ## See how the cost of training grows
	$(RUN) momentum_gpt.bench.growth data=$(DATA) $(OPTIONS)

bench-attention: .venv/.ready  ## Time momentum beside vanilla attention
	$(RUN) momentum_gpt.bench.attention $(OPTIONS)

# Two processes; a file's tests stay in one of them, so that its fixtures are made once.
test: .venv/.ready-for-tests  ## Run the tests
	$(RUN) pytest -n 2 --dist loadfile

test-slow: .venv/.ready-for-tests  ## Run the tests that take minutes, with kills at random moments
	$(RUN) pytest -m slow -n 2 --dist loadfile --timeout 1500

test-wheel: .venv/.ready-for-tests  ## Use the wheel in a fresh environment: PYTHON=python3.13
	WHEEL_PYTHON=$(PYTHON) $(RUN) pytest -m wheel --timeout 1500 tests/test_wheel.py

test-cluster: .venv/.ready-for-tests  ## Run the tests on a real SLURM and Ray; needs root and Debian
	$(PIP) -e '.[cluster,sweep]'
	$(RUN) pytest -m cluster --timeout 900

test-harness: .venv/.ready-for-tests  ## Run the tests against lm-eval, which this installs
	$(PIP) -e '.[harness]'
	$(RUN) pytest tests/evaluation/few_shot/test_lm_eval_model.py tests/bench/test_evaluation.py \
	    --timeout 600

test-transformers4: .venv/.ready-for-tests .venv/transformers4/.ready  ## Test exports in transformers 4
	$(RUN) pytest -m transformers4

mutation: .venv/.ready-for-tests  ## Measure which small mistakes in the code the tests find: an hour
	$(PIP) -e '.[harness,mutation]'
	$(RUN) pytest --quiet tests/mutation
	$(RUN) tests.mutation $(OPTIONS)

test-chaotic: .venv/.ready-for-tests  ## Run the long tests of kills, frozen ranks and other layouts
	$(RUN) pytest -m chaotic --timeout 1500

chaos: .venv/.ready-for-tests  ## Kill, freeze and damage runs, and see that none is lost
	$(RUN) tests.chaos $(OPTIONS)

checks: .venv/.ready-for-tests  ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.ready-for-tests  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: .venv/.ready-for-tests  ## Build the wheel in dist/
	$(RUN) pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

reference: .venv/.ready  ## Write docs/reference/options.md from the code
	$(RUN) momentum_gpt.cli.reference docs/reference/options.md

clean:  ## Remove the environment and the caches; data/ and runs/ stay
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(DATA)/manifest.json: | .venv/.ready
	$(RUN) data_prep.prepare corpus=stdlib output=$(DATA) tokenizer.vocab_size=2048

# pip takes the exact versions of constraints.txt. torch comes first and alone, so that nothing
# else asks for another build of it.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e .
	touch $@

.venv/.ready-for-tests: .venv/.ready
	$(PIP) hatchling -e '.[test,curation]'
	touch $@

# Only what differs between transformers 4 and 5; everything else is the environment's. The versions
# are not those of constraints.txt.
.venv/transformers4/.ready: Makefile | .venv/.ready
	rm -rf $(@D)
	$(RUN) pip install --quiet --no-deps --target $(@D) \
	    transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.2
	touch $@
