# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Export of the code that a saved model needs where this package is not installed: modules, copied flat."""

import ast
import functools
import importlib
import re
import sys
import textwrap
from pathlib import Path

from transformers.utils import logging

from ..version import __version__
from . import resaving


PACKAGE = __name__.split(".")[0]
VERSION_FIELD = "hf_thoughtbubbles_version"  # in config.json, beside transformers_version


def collect_auto_classes(config_class: type) -> dict[str, type]:
    """Classes of this package that the Auto classes build from a configuration, by the name of the Auto class."""
    package = sys.modules[PACKAGE]
    known = [names for names in package.FAMILIES.values() if getattr(package, names["AutoConfig"]) is config_class]
    return {name: getattr(package, public) for name, public in known[0].items() if "Auto" in name} if known else {}


def flatten_modules(module_names: list[str]) -> dict[str, str]:
    """Return the sources of modules, and of all they import from their package, for one flat folder, by file name."""
    package, origins, files = module_names[0].split(".")[0], dict[str, str](), dict[str, str]()
    queue = sorted(module_names)
    while queue:
        module_name = queue.pop(0)
        file_name = f"{module_name.split('.')[-1]}.py"
        if origins.setdefault(file_name, module_name) != module_name:
            raise ValueError(f"{origins[file_name]} and {module_name} have the same base name. Rename one.")
        if file_name not in files:
            source = Path(str(sys.modules[module_name].__file__)).read_text(encoding="utf-8")
            files[file_name], imported = _flatten_source(source, module_name, package)
            queue.extend(imported)
    return dict(sorted(files.items()))


@functools.cache
def _flatten_source(source: str, module_name: str, package: str) -> tuple[str, list[str]]:
    """The source of one module with flat imports and short docstrings, and the modules that it imports."""
    lines, imported = source.splitlines(keepends=True), []
    for node in ast.walk(ast.parse(source)):
        where = f"{module_name}, line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == package for alias in node.names):
            raise ValueError(f"{where}: `import {package}` cannot be saved with a model. Import from a module.")
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module) and ast.get_docstring(node):
            first, last = node.body[0].lineno - 1, int(node.body[0].end_lineno or 0)
            lines[first:last] = [_shorten_docstring("".join(lines[first:last])), *[""] * (last - first - 1)]
        if not isinstance(node, ast.ImportFrom):
            continue
        parents = module_name.split(".")[: -node.level] if node.level else []
        target = ".".join([*parents, *([node.module] if node.module else [])])
        if target.startswith(f"{PACKAGE}.hub."):  # resaving has classes of the same names
            target = resaving.__name__
        if target.split(".")[0] == package:
            if hasattr(importlib.import_module(target), "__path__"):
                raise ValueError(f"{where} imports from the package {target}. Import from the module with the name.")
            imported.append(target)
            flat_import = f"from .{target.split('.')[-1]} import"
            lines[node.lineno - 1] = re.sub(r"from\s+\S+\s+import", flat_import, lines[node.lineno - 1], count=1)
    return re.sub(r"\n{3,}", "\n\n", "".join(lines).split("\n\n\n__all__ = ")[0].rstrip() + "\n"), sorted(imported)


def _shorten_docstring(docstring: str) -> str:
    """The first sentence of a docstring; nothing of one that only lists arguments."""
    indent = " " * (len(docstring) - len(docstring.lstrip(" ")))
    prefix, quotes, text = docstring.strip().removesuffix('"""').partition('"""')
    sentence = " ".join(re.split(r"(?<=\.)\s|\n\s*\n", text.strip())[0].split())
    line = textwrap.fill(f"{prefix}{quotes}{sentence}{quotes}", 119, initial_indent=indent, subsequent_indent=indent)
    return "" if sentence.startswith("Args:") else f"{line}\n"


class RemoteCodeConfigMixin(resaving.RemoteCodeConfigMixin):
    """Save the code and the version of this package. `family_summary` describes the family for model cards."""

    def __post_init__(self, **kwargs):
        saved = kwargs.pop(VERSION_FIELD, __version__)
        super().__post_init__(**kwargs)  # type: ignore[misc]  # of the class behind this mixin
        if str(saved).split(".")[:2] != __version__.split(".")[:2]:
            logging.get_logger(__name__).warning_once(
                f"hf-thoughtbubbles {saved} saved this model. {__version__} may compute otherwise. Install {saved}."
            )

    def to_dict(self) -> dict:
        """The configuration as a dictionary, with the version of this package."""
        return {**super().to_dict(), VERSION_FIELD: __version__}  # type: ignore[misc]  # of the class behind this mixin

    def export_code(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """The files to save, by name, and the `auto_map` of the classes in them; none for a user's own class."""
        classes = collect_auto_classes(type(self))
        if not classes:
            return {}, {}
        modules = {name: public.__module__ for name, public in classes.items()}
        auto_map = {name: f"{modules[name].split('.')[-1]}.{public.__name__}" for name, public in classes.items()}
        files = flatten_modules([*modules.values()])
        return {name: resaving.add_digest(source.encode()) for name, source in files.items()}, auto_map
