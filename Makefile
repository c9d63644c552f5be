# Two commands do everything on a fresh machine with Python 3.11 or 3.12: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=10

.PHONY: demo test test-slow fresh lint docs bench bench-gpu install clean

demo: $(STAMP)
	$(BIN)/rotanext demo --run runs/demo

test: lint fresh
	$(PYTEST) -m "not slow"

test-slow: fresh
	$(PYTEST) -m slow

fresh: $(STAMP)
	@# numba's cache does not see changes of kernels that others call
	@find src/rotanext/ops -name '*.nbi' ! -newer "$$(ls -t src/rotanext/ops/*.py | head -1)" -delete

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell src tests benchmarks docs README.md CHANGELOG.md CONTRIBUTING.md pyproject.toml mkdocs.yml

docs: $(STAMP)
	$(BIN)/python docs/drawings.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html"

bench: $(STAMP)
	$(BIN)/python benchmarks/operators.py
	$(BIN)/python benchmarks/assignment.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/model.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/scene.py
	$(BIN)/python benchmarks/archive.py
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/engines.py

bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/operators.py --device cuda
	$(BIN)/python benchmarks/assignment.py --device cuda
	$(BIN)/python benchmarks/model.py --device cuda
	$(BIN)/python benchmarks/training.py --device cuda --size 1024 --precision bf16
	$(BIN)/python benchmarks/training.py --device cuda --size 1024 --precision bf16 --batch 16

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is needed: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@echo "compiling the operators for this machine, once"
	$(BIN)/rotanext info
	touch $@

clean:
	rm -rf $(VENV) runs site .pytest_cache .mypy_cache .ruff_cache
