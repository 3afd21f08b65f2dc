# Two commands do all the set-up on a fresh machine:  make demo   and   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check soak install clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,deepspeed,fast,hf]"
	touch $(STAMP)

install: $(STAMP)  ## environment and Tessera in it

demo: $(STAMP)  ## the whole pipeline on drawn birds; the last line says which picture to open
	$(BIN)/tessera run demo

test: $(STAMP)  ## environment, then everything CI checks first
	$(MAKE) check

check:  ## style, types, imports, fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

soak: $(STAMP)  ## slow tests: world size 3, ZeRO, kills, fuzz
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) build dist *.egg-info
