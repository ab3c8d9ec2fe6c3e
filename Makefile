# Everything runs inside .venv; the Python outside it is only used to create it.
PYTHON ?= python3
BIN := .venv/bin
FIRST := 00_start_here

.DEFAULT_GOAL := help
.PHONY: help env run notebooks slides book address test test-slow fuzz lab results zoo bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: .venv/.installed ## .venv with the pinned requirements and the package itself

.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-deps -e .
	touch $@

run: env ## execute the first notebook on phantoms and print its scores (SEGLIB_SMOKE=1: seconds)
	$(BIN)/python tests/run_notebook.py notebooks/$(FIRST).ipynb runs/$(FIRST).executed.ipynb

notebooks: env ## execute all lessons in order from an empty runs/, then the solutions; keep outputs and minutes (twenty minutes on two cores)
	$(BIN)/python -m tests.course

# What shows a deck comes from the web, or from a folder of npm packages beside the decks.
ifdef SLIDES_FROM
SLIDES_URLS := --SlidesExporter.reveal_url_prefix=$(SLIDES_FROM)/reveal.js \
  --SlidesExporter.require_js_url=$(SLIDES_FROM)/requirejs/require.js \
  --SlidesExporter.jquery_url=$(SLIDES_FROM)/jquery/dist/jquery.min.js \
  --SlidesExporter.mathjax_url='$(SLIDES_FROM)/mathjax/MathJax.js?config=TeX-AMS_CHTML-full'
else
SLIDES_URLS := --SlidesExporter.reveal_url_prefix=https://unpkg.com/reveal.js@4.6.1
endif
slides: env ## a deck of slides for each lesson: runs/slides/*.html (LESSON=03: for one)
	PYTHONPATH=docs/book $(BIN)/jupyter nbconvert --to decks.Deck --no-prompt --output-dir runs/slides \
	  $(SLIDES_URLS) --SlidesExporter.reveal_scroll=True \
	  --SlidesExporter.reveal_number=c/t --SlidesExporter.reveal_width=1280 \
	  --SlidesExporter.reveal_height=800 --TagRemovePreprocessor.enabled=True \
	  --TagRemovePreprocessor.remove_input_tags=hide-input notebooks/$(LESSON)*.ipynb

address: ## write the address of this repository into badges and set-up cells: make address REPO=https://github.com/YOU/FORK
	$(PYTHON) .ci/address.py $(REPO)

# One test process a core, at most eight: each holds PyTorch in memory and computes with one thread.
PARALLEL := -n logical --maxprocesses 8 --dist worksteal
test test-slow: export MPLBACKEND = agg
test: export OMP_NUM_THREADS = 1
test: env ## lint, unit tests, and every notebook in its smoke size
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(PARALLEL) tests
	rm -rf runs/smoke
# Every notebook in a folder of its own, because notebooks of one preset would write the same runs.
	for n in $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb); do \
	  folder=runs/smoke/$$(echo $${n%.ipynb} | tr / _); \
	  mkdir -p $$folder && cp $$n notebooks/settings.cfg $$folder || exit 1; \
	done
	SEGLIB_SMOKE=1 $(BIN)/python -m pytest $(PARALLEL) --nbmake runs/smoke/*/*.ipynb
	rm -rf runs/smoke

test-slow: env ## the tests that take minutes
	$(BIN)/python -m pytest tests -m slow

fuzz: env ## randomly damaged files of every kind that is read, for ten minutes
	$(BIN)/python -m tests.fuzz 600

lab: env ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

results: env ## train on the real data and write docs/results.md (hours)
	$(BIN)/python -m tests.results

zoo: env ## train the networks that come with the package on real data (after make results)
	$(BIN)/python -m tests.zoo

bench: env ## time our code beside its peers and write docs/timings.md (an hour; nothing else should run)
	$(BIN)/python -m pip install -r tests/benchmarks/requirements.txt
	$(BIN)/python -m tests.benchmarks

book: env ## a website of lessons, glossary, how-tos, results and API in runs/book/html
	$(BIN)/python -m pip install -q -r docs/book/requirements.txt
	$(BIN)/python docs/book/build.py

clean: ## remove caches, build leftovers and executed copies (keeps .venv, data, runs and stores; says what stores occupy)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis runs/*.executed.ipynb
	find seglib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
	@test ! -x $(BIN)/python || $(BIN)/python -m seglib stores
