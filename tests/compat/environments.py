# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Environments with the oldest and the newest transformers that setup.cfg promises, without the package."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path


REPOSITORY = Path(__file__).parents[2]
CACHE = REPOSITORY / ".cache" / "compat"
# What transformers itself asks for, and what decides how a model is loaded, saved and pushed.
BOUNDED = ("huggingface_hub", "tokenizers", "safetensors")


def find_promised_floor() -> str:
    """The oldest transformers that setup.cfg promises, as a requirement of pip; its first patch release counts."""
    settings = configparser.ConfigParser()
    settings.read(REPOSITORY / "setup.cfg")
    floor = re.search(r"^transformers>=(.+)$", settings["options"]["install_requires"], flags=re.MULTILINE).group(1)
    return f"transformers=={floor}.0"


def find_torch() -> str:
    """The torch of constraints.txt: logits are compared bit by bit, so every environment has the same."""
    return re.search(r"^torch==.+$", (REPOSITORY / "constraints.txt").read_text(), flags=re.MULTILINE).group(0)


def pip(folder: Path, *arguments: str):
    """Run pip of an environment; what it said is shown when it failed."""
    command = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    if result.returncode:
        raise RuntimeError(f"pip {' '.join(arguments)} failed:\n{result.stderr[-3000:]}")


def read_lower_bounds(folder: Path) -> list[str]:
    """The oldest of everything in `BOUNDED` that the transformers of an environment accepts."""
    script = "import importlib.metadata as m; print('\\n'.join(m.requires('transformers')))"
    requirements = subprocess.run(
        [folder / "bin" / "python", "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    bounds = {}
    for name in BOUNDED:
        line = re.search(rf"^{name.replace('_', '-')}[<>=!].*$", requirements, flags=re.MULTILINE).group(0)
        bounds[name] = re.search(r">=([\w.]+)", line).group(1)
    return [f"{name}=={version}" for name, version in bounds.items()]


def build_environment(name: str) -> Path:
    """
    Build the environment, or bring it up to date.

    Args:
        name (`str`): `oldest` (the floor of setup.cfg and the oldest that goes with it) or `newest` (of the index).

    Returns:
        `Path`: the environment's folder. The package is not installed in it.
    """
    folder = CACHE / name
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=300)
    if name == "oldest":
        pip(folder, "install", "--no-deps", find_promised_floor())
        pinned = [find_promised_floor(), *read_lower_bounds(folder)]
    else:
        pip(folder, "install", "--upgrade", "transformers", "huggingface-hub")
        pinned = []
    pip(folder, "install", find_torch(), "accelerate", *pinned)
    # What the package brings later must not move what is under test.
    frozen = subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "freeze"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    kept = [line for line in frozen.splitlines() if re.match(rf"(transformers|torch|{'|'.join(BOUNDED)})==", line)]
    (folder / "kept.txt").write_text("\n".join(kept) + "\n")
    return folder


def install_package(folder: Path):
    """Install the package as a user does, from a copy: building in place would leave files in the repository."""
    source = CACHE / "source"
    shutil.rmtree(source, ignore_errors=True)
    package = Path("src", "hf_thoughtbubbles")
    shutil.copytree(REPOSITORY / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(REPOSITORY / name, source / name)
    pip(folder, "install", "--constraint", str(folder / "kept.txt"), str(source))


def remove_package(folder: Path):
    """Uninstall the package from the environment."""
    pip(folder, "uninstall", "--yes", "hf-thoughtbubbles")
