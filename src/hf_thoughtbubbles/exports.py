# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Public names of packages that are imported when they are first used, so that a package costs what is used of it."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def export_on_use(package: str, modules: Mapping[str, tuple[str, ...]]) -> tuple[Callable, Callable, list[str]]:
    """
    Make `__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package (`str`): the package's `__name__`.
        modules (`Mapping`): modules of the package, each with the names that the package exports from it.

    Returns:
        A function that imports a name when it is first used, a function that lists the names, and the list of them.
    """
    homes = {name: module for module, names in modules.items() for name in names}
    listed = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: list(listed), listed


__all__ = ["export_on_use"]
