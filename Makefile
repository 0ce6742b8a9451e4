# The two commands: `make book` and `make test`. What they do stands in book/install.py and book/build.py.
PYTHON ?= python3
PROFILE ?= ci
VENV := .venv/bin/python
# Threads that sleep while they wait for each other: those that spin take 20 times as long on a busy machine.
export OMP_WAIT_POLICY ?= passive

.PHONY: help install book test notebooks clean
.DEFAULT_GOAL := help

help:
	@echo "make book       run the notebooks (PROFILE=ci) and render the book from them"
	@echo "make test       lint, unit tests, notebooks compared with their stored outputs, a run with other parameters"
	@echo "make notebooks  run the notebooks at the ci profile and store their outputs in notebooks/"
	@echo "make clean      delete build/ and .venv/"

install:
	@$(PYTHON) book/install.py

book: install
	@$(VENV) book/build.py book --profile $(PROFILE)

test: install
	@$(VENV) -m ruff check .
	@$(VENV) -m mypy
	@$(VENV) -m pytest tests
	@$(VENV) book/build.py compare

notebooks: install
	@$(VENV) book/build.py store

clean:
	rm -rf build .venv
