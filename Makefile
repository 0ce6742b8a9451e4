# The two commands: `make book` and `make test`. What they do stands in tools/build.py.
PYTHON ?= python3
PROFILE ?= ci
VENV := .venv/bin/python
# Made last, so that a half-made environment has none; its name holds what the environment was made from.
STAMP := .venv/made-from-$(shell ($(PYTHON) -V; cat pyproject.toml constraints.txt) 2>&1 | sha256sum | cut -c1-16)
# Text is UTF-8 in any locale, also for the programs that are called.
export PYTHONUTF8 := 1
# Python keeps what it has compiled: pip leaves that to the first import, as most of what it installs is never imported.
unexport PYTHONDONTWRITEBYTECODE
# Threads that sleep while they wait for each other: those that spin take 20 times as long on a busy machine.
export OMP_WAIT_POLICY ?= passive
# Memory that the steps of a computation hand on to each other, see rlnlib/fast/environment.py.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647
export MALLOC_TOP_PAD_ ?= 67108864
# A plugin of a package that no test imports: it takes a second to load, in each process of pytest.
export PYTEST_ADDOPTS ?= -p no:hypothesispytest

.PHONY: help install book test stress avx2 flakes act notebooks pdf archive clean
.DEFAULT_GOAL := help

help:
	@echo "make book       run the notebooks (PROFILE=ci) and render the book from them"
	@echo "make test       lint, unit tests, the pages in a browser (if there is one), notebooks compared"
	@echo "make stress     13,600 hostile calls, 50 kills of data generation and 30 of a training"
	@echo "make avx2       the same notebooks compared with AVX2 kernels and one thread, as on an older processor"
	@echo "make flakes     the same twenty times over, to find outputs that differ by chance"
	@echo "make act        run each notebook with each parameter changed, and record what changes"
	@echo "make pdf        the whole book as one PDF file, printed by Chromium"
	@echo "make archive    the book, its PDF, executed notebooks, data, weights and checksums in one zip file"
	@echo "make notebooks  run the notebooks at the ci profile and store their outputs in notebooks/"
	@echo "make clean      delete build/ and .venv/"

# PIP_ARGUMENTS takes what a machine needs, for instance --extra-index-url for a CPU build of torch.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: Python 3.10 or newer is needed: name one with make PYTHON=/path/to/python."; exit 1; }
	@exec 9> .venv.lock && { flock -n 9 || \
	  { echo "error: another make is installing into .venv: wait until it has ended."; exit 1; }; } && \
	  echo "Installing into .venv; this takes some minutes." && \
	  { $(PYTHON) -m venv --clear .venv || \
	    { echo "error: Python cannot make environments here: install its venv module (Debian: python3-venv)."; exit 1; }; } && \
	  { $(VENV) -m pip install --disable-pip-version-check --progress-bar off -q -q --no-compile -c constraints.txt \
	    $(PIP_ARGUMENTS) -e ".[book,test]" || \
	    { echo "error: pip could not install the packages, see above: is it the network, or the disk?"; exit 1; }; } && \
	  touch $@

install: $(STAMP)

book: install
	@$(VENV) tools/build.py book --profile $(PROFILE)

test: install
	@$(VENV) -m ruff check .
	@$(VENV) -m mypy
	@if [ -n "$$RLN_BROWSER" ] || command -v chromium >/dev/null; then $(VENV) tools/build.py book; fi # for test_browser
	@OMP_NUM_THREADS=1 $(VENV) -m pytest tests -n 2 --dist loadfile
	@$(VENV) tools/build.py compare

stress: install
	@$(VENV) tests/stress/fuzz.py --calls 13600
	@$(VENV) tests/stress/kill_generation.py --kills 50
	@$(VENV) tests/stress/kill_training.py --kills 30

avx2: export ATEN_CPU_CAPABILITY := avx2
avx2: export ONEDNN_MAX_CPU_ISA := AVX2
avx2: export NUMBA_NUM_THREADS := 1
avx2: install
	@$(VENV) tools/build.py compare --again

flakes: install
	@for run in $$(seq 20); do echo "run $$run of 20"; $(VENV) tools/build.py compare --again || exit 1; done

act: install
	@$(VENV) tools/parameters_act.py

pdf: install
	@$(VENV) tools/build.py pdf

archive: install
	@$(VENV) tools/build.py archive

notebooks: install
	@$(VENV) tools/build.py store

clean:
	rm -rf build .venv .venv.lock
