# Every target makes .venv by itself when it is missing or older than what it should contain.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo

.PHONY: demo test style quality bench compat clean

.venv/installed: setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("constraints.txt pins versions for Python 3.11 or newer; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: .venv/installed  ## train beside a native GPT-2, reload, generate, draw (under 5 minutes on 2 cores)
	$(BIN)/python examples/train_thoughtbubbles_text.py --output_dir $(RUN) --baseline gpt2
	$(BIN)/python examples/generate_text.py $(RUN)/thoughtbubbles --prompt "def get_" --max_new_tokens 64 --temperature 0.7
	$(BIN)/python examples/plot_forks.py $(RUN)/thoughtbubbles --output $(RUN)/forks.png
	@echo "checkpoints in $(RUN)/thoughtbubbles and $(RUN)/gpt2, pictures in $(RUN)/forks.png and $(RUN)/forks/"

test: .venv/installed  ## everything CI runs, under 15 minutes on 2 cores
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope

style: .venv/installed  ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: .venv/installed  ## what CI asks of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/installed  ## every claim about speed or memory, measured side by side
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/thinking.py

compat: .venv/installed  ## models saved now, under the oldest and the newest transformers (10 minutes at first, then 5)
	$(BIN)/python -m tests.compat.compare_versions

clean:
	rm -rf .venv runs .cache build dist
