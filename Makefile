# Two commands matter: `make book` renders the book, `make test` checks everything. Both first make
# .venv with the pinned set, each file of it checked against the hash in requirements.lock; later calls
# reuse it until pyproject.toml or requirements.lock change. tools/environment.py does it and says what is wrong.

PYTHON    ?= python3
PORT      ?= 8000
CHAPTERS  ?=
INSTALLER ?= uv
FREE_GB   ?=

# Test processes: one a core, as far as this process may use them, and no more than 8, as each holds torch.
WORKERS ?= $(shell $(PY) -c "import joblib; print(min(8, joblib.cpu_count()))")
# The floor for coverage, in pyproject.toml, is Linux's: elsewhere the tests of several processes are skipped.
ANY_COVERAGE := $(if $(filter Linux,$(shell uname -s)),,--cov-fail-under=0)
# The notebooks that take longest begin first, so that none of them runs alone at the end.
SLOWEST   := $(addprefix book/,03_mnist_dcgan.ipynb 04_dcgan_guidelines.ipynb 05_celeba_dcgan.ipynb 07_measuring_gans.ipynb)
NOTEBOOKS := $(SLOWEST) $(filter-out $(SLOWEST),$(sort $(wildcard book/*.ipynb)))

# Threads that wait sleep in place of spinning. On a machine with other work a spinning thread takes the
# core from the one it waits for, and a training step costs ten times as much.
export OMP_WAIT_POLICY ?= PASSIVE

BIN  := .venv/bin
PY   := $(BIN)/python
DONE := .venv/.installed
PAGE := _build/html/index.html

.NOTPARALLEL:
.PHONY: FORCE help book test pages execute serve lint unit notebooks format sync stamp pdf epub lock links lowest colab clean

help:    ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

# How uv installs the lock, and pip where uv has no wheel for the machine (INSTALLER=pip): as it is, nothing resolved.
LOCKED := --no-deps --require-hashes --only-binary=:all: -r requirements.lock

# What is set for other Pythons must not reach the one of .venv.
unexport PYTHONHOME PYTHONPATH PYTHONSTARTUP VIRTUAL_ENV CONDA_PREFIX

.PRECIOUS: $(DONE)    # an interrupted make must not delete it: a uv that is still running holds it locked
$(DONE): FORCE
	@$(PYTHON) tools/install.py $(if $(filter file,$(origin PYTHON)),,--named) $(if $(FREE_GB),--free-gb=$(FREE_GB)) --installer=$(INSTALLER) -- $(LOCKED)

FORCE:

book: $(DONE)    ## render the book to _build/html, warnings as errors
	@$(BIN)/jupyter-book build . --all -W -n --keep-going --quiet >/dev/null
	@echo "The book is rendered. Open it: file://$(CURDIR)/$(PAGE)"

pdf: book    ## the whole book as one PDF, in _build/release; needs Chromium or Chrome
	@$(PY) tools/make_books.py pdf

epub: book    ## the whole book as an EPUB, in _build/release; needs Chromium or Chrome
	@$(PY) tools/make_books.py epub

test: $(DONE)    ## lint, unit tests, every notebook, the render, the rendered pages
	@begin=$$(date +%s) && $(MAKE) --no-print-directory lint unit notebooks pages && $(PY) tools/summary.py $$begin

lint: $(DONE)    ## ruff, mypy, and the pairs of .md and .ipynb in step
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "run: make format"; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(PY) tools/chapters.py check

unit: $(DONE)    ## unit tests with coverage
	@$(BIN)/pytest --quiet -n $(WORKERS) --dist worksteal --cov $(ANY_COVERAGE) --cov-report=term --cov-report=json:_build/tests/coverage.json --junitxml=_build/tests/unit.xml

# A notebook is run by one process from its first cell to its last, on one thread: two side by side are then
# faster than one after the other on two threads, and the outputs are the same.
# Progress bars appear only where something takes long, so they are switched off: on a slow machine they would differ.
notebooks: $(DONE)    ## re-run every notebook and compare each output with the stored one
	@OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(BIN)/pytest --quiet -n $(WORKERS) --dist loadfile --no-loadscope-reorder --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --junitxml=_build/tests/notebooks.xml $(NOTEBOOKS)

pages: book    ## try the rendered pages in headless Chromium: navigation, width, accessibility
	@RENDERED=_build/html $(BIN)/pytest --quiet -rs --junitxml=_build/tests/pages.xml tests/test_pages.py || test $$? = 5

execute: $(DONE)    ## re-run the chapters and store their outputs; CHAPTERS="03 04" for some
	@$(PY) tools/chapters.py execute $(CHAPTERS)

sync: $(DONE)    ## carry changed prose into the notebooks
	@$(PY) tools/chapters.py sync $(CHAPTERS)

format: $(DONE)    ## lay out all code as ruff does
	@$(PY) tools/chapters.py format $(CHAPTERS)
	@$(PY) tools/chapters.py sync $(CHAPTERS) || true
	@$(BIN)/ruff check --quiet --fix benchmarks dcganlib tests tools
	@$(BIN)/ruff format --quiet benchmarks dcganlib tests tools

stamp: $(DONE)    ## repeat the repository's address of _config.yml wherever it is needed
	@$(PY) tools/chapters.py stamp

serve: book    ## serve the book on this machine, PORT=8000
	@$(PY) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lock: $(DONE)    ## resolve the pinned set anew, keeping its pins where it can; LOCK=--upgrade for the newest
	@$(PY) tools/lock.py $(LOCK)

links: $(DONE)    ## look up every address that the book links to; needs the network
	@$(BIN)/jupyter-book build . --all --builder linkcheck

lowest: $(DONE)    ## the unit tests with the lowest versions that pyproject.toml allows; Python 3.10 to 3.12
	@$(PY) tools/other_versions.py lowest

colab: $(DONE)    ## a chapter as Colab runs it, with Colab's versions (tools/colab.txt); Python 3.13
	@$(PY) tools/other_versions.py colab

clean:    ## remove what was rendered and cached; .venv stays
	@rm -rf _build .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
