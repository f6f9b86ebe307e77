# The targets print themselves: make help
.DEFAULT_GOAL := help
.PHONY: help setup train recall test test-slow test-cluster test-harness test-transformers4 checks format check-attention bench-attention clean

export PIP_DISABLE_PIP_VERSION_CHECK = 1

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
BIN := .venv/bin
RUN := $(BIN)/python -m
DATA := data/stdlib
NAME ?= momentum

help:  ## Say what make can do
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: .venv/.ready  ## Make the environment in .venv (train and test do it by themselves)

train: .venv/.ready $(DATA)/manifest.json  ## From a fresh clone to a finished comparison of vanilla and momentum attention
	$(RUN) momentum_gpt.train name=vanilla data=$(DATA) attention=vanilla tracking.group=laptop
	$(RUN) momentum_gpt.train name=momentum data=$(DATA) attention=momentum tracking.group=laptop
	$(RUN) momentum_gpt.evaluate run=runs/vanilla
	$(RUN) momentum_gpt.evaluate run=runs/momentum
	$(RUN) momentum_gpt.compare runs=[runs/vanilla,runs/momentum]

recall: .venv/.ready  ## Which attention learns to recall: a few minutes, a table and a figure
	$(RUN) momentum_gpt.recall

check-attention: .venv/.ready  ## Prove a variant and show what it costs: make check-attention NAME=momentum
	$(RUN) momentum_gpt.check_attention attention=$(NAME) $(OPTIONS)

bench-attention: .venv/.ready  ## Momentum beside vanilla attention: training steps, decoding and, on a GPU, memory
	$(RUN) momentum_gpt.bench.attention $(OPTIONS)

test: .venv/.ready-for-tests  ## Run the tests
	$(RUN) pytest

test-slow: .venv/.ready-for-tests  ## Run the tests that take minutes: kills at random moments
	$(RUN) pytest -m slow --timeout 1500

test-cluster: .venv/.ready-for-tests  ## Run the tests on a real SLURM and Ray, as root of a Debian: they are installed and started
	$(RUN) pip install --quiet -c constraints.txt -e '.[cluster]'
	$(RUN) pytest -m cluster --timeout 900

test-harness: .venv/.ready-for-tests  ## Run the tests against lm-eval, which they install
	$(RUN) pip install --quiet -c constraints.txt -e '.[harness]'
	$(RUN) pytest tests/evaluation/test_harness.py --timeout 600

test-transformers4: .venv/.ready-for-tests .venv/transformers4/.ready  ## Run the tests of the export in transformers 4.57, which they install beside 5
	$(RUN) pytest -m transformers4

checks: .venv/.ready-for-tests  ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.ready-for-tests  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove the environment and the caches; data/ and runs/ stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(DATA)/manifest.json: | .venv/.ready
	$(RUN) data_prep.prepare corpus=stdlib output=$(DATA) tokenizer.vocab_size=2048

# pip takes the exact versions of constraints.txt; torch alone first, so that nothing asks for another one.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) pip install --quiet -c constraints.txt torch
	$(RUN) pip install --quiet -c constraints.txt -e .
	touch $@

.venv/.ready-for-tests: .venv/.ready
	$(RUN) pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

# What differs between it and the environment's own; torch and the rest are the environment's.
.venv/transformers4/.ready: Makefile | .venv/.ready
	rm -rf $(@D)
	$(RUN) pip install --quiet --no-deps --target $(@D) transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.2
	touch $@
