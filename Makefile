# The two commands: `make book` and `make test`. What they do stands in tools/install.py and tools/build.py.
PYTHON ?= python3
PROFILE ?= ci
VENV := .venv/bin/python
# Threads that sleep while they wait for each other: those that spin take 20 times as long on a busy machine.
export OMP_WAIT_POLICY ?= passive

.PHONY: help install book test avx2 flakes act notebooks archive clean
.DEFAULT_GOAL := help

help:
	@echo "make book       run the notebooks (PROFILE=ci) and render the book from them"
	@echo "make test       lint, unit tests, the pages in a browser (if there is one), notebooks compared"
	@echo "make avx2       the same notebooks compared with AVX2 kernels and one thread, as on an older processor"
	@echo "make flakes     the same twenty times over, to find outputs that differ by chance"
	@echo "make act        run each notebook with each parameter changed, and record what changes"
	@echo "make archive    the book, executed notebooks, data, weights, lock file and checksums in one zip file"
	@echo "make notebooks  run the notebooks at the ci profile and store their outputs in notebooks/"
	@echo "make clean      delete build/ and .venv/"

install:
	@$(PYTHON) tools/install.py

book: install
	@$(VENV) tools/build.py book --profile $(PROFILE)

test: install
	@$(VENV) -m ruff check .
	@$(VENV) -m mypy
	@if [ -n "$$RLN_BROWSER" ] || command -v chromium >/dev/null; then $(VENV) tools/build.py book; fi # for test_browser
	@$(VENV) -m pytest tests
	@$(VENV) tools/build.py compare

avx2: export ATEN_CPU_CAPABILITY := avx2
avx2: export ONEDNN_MAX_CPU_ISA := AVX2
avx2: export NUMBA_NUM_THREADS := 1
avx2: install
	@$(VENV) tools/build.py compare

flakes: install
	@for run in $$(seq 20); do echo "run $$run of 20"; $(VENV) tools/build.py compare || exit 1; done

act: install
	@$(VENV) tools/parameters_act.py

archive: install
	@$(VENV) tools/build.py archive

notebooks: install
	@$(VENV) tools/build.py store

clean:
	rm -rf build .venv
