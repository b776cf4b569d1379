# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How does a saved model carry the code that loads it where this package is not installed?

transformers copies code for `trust_remote_code` by a regular expression over one flat folder, which a package with
several folders cannot satisfy as it stands. [`RemoteCodeConfigMixin`] therefore writes a flattened copy of every
module that a configuration's models need, each time the configuration is saved: `save_pretrained` of a model, a
Trainer checkpoint and `push_to_hub` all save the configuration, so all of them carry the code.
"""

import ast
import functools
import importlib
import os
import re
import shutil
import sys
from pathlib import Path

from transformers.models.auto import modeling_auto

from ..version import __version__
from .saved_version import VERSION_FIELD, warn_of_version_gap


COPYRIGHT = b"The hf-thoughtbubbles team"  # in the first line of every file that travels
REMOTE_MODULES_PACKAGE = "transformers_modules"  # where transformers imports code that came with a checkpoint


def is_of_package(public: type) -> bool:
    """Whether a class is this package's own: only its code may travel, never a user's script or notebook."""
    return public.__module__.split(".")[0] == __name__.split(".")[0]


def collect_auto_classes(config_class: type) -> dict[str, type]:
    """
    Find every class of this package that the Auto classes build from a configuration class.

    Args:
        config_class (`type`): a configuration class registered with transformers' Auto classes.

    Returns:
        `dict[str, type]`: name of the Auto class to the class it builds, `AutoConfig` first, then by name.
    """
    classes = {"AutoConfig": config_class}
    for name, auto_class in sorted(vars(modeling_auto).items()):
        if isinstance(auto_class, type) and getattr(auto_class, "_model_mapping", None) is not None:
            model_class = auto_class._model_mapping.get(config_class, None)
            if model_class is not None and is_of_package(model_class):  # a user's own head stays with the user
                classes[name] = model_class
    return classes


def flatten_modules(module_names: list[str]) -> dict[str, str]:
    """
    Flatten modules of one package, and all they import from it, into files that live side by side.

    `from ..folder.name import x`, `from .name import x` and `from package.folder.name import x` become
    `from .name import x`. The same modules always give the same text.

    Args:
        module_names (`list[str]`): names of imported modules, all of one package.

    Returns:
        `dict[str, str]`: file name to source, by name.

    Raises:
        `ValueError`: when a module imports a whole package, or two modules share a base name; names the module.
    """
    package = module_names[0].split(".")[0]
    origins, files, queue = {}, {}, sorted(module_names)
    while queue:
        module_name = queue.pop(0)
        base_name = module_name.split(".")[-1]
        if origins.setdefault(base_name, module_name) != module_name:
            raise ValueError(
                f"Modules {origins[base_name]} and {module_name} have the same base name, so only one could travel "
                "with a checkpoint. Rename one."
            )
        if f"{base_name}.py" in files:
            continue
        source = Path(sys.modules[module_name].__file__).read_text(encoding="utf-8")
        files[f"{base_name}.py"], imported = _flatten_source(source, module_name, package)
        queue.extend(imported)
    return dict(sorted(files.items()))


@functools.cache
def _flatten_source(source: str, module_name: str, package: str) -> tuple[str, list[str]]:
    """The source of one module with its in-package imports made flat, and the modules these imports name."""
    lines, imported = source.splitlines(keepends=True), []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == package for alias in node.names):
            raise ValueError(f"{module_name}, line {node.lineno}: write `from module import name`; it has to travel.")
        if not isinstance(node, ast.ImportFrom):
            continue
        target = node.module or ""
        if node.level:
            target = ".".join(module_name.split(".")[: -node.level] + ([node.module] if node.module else []))
        if target.split(".")[0] != package:
            continue
        if hasattr(importlib.import_module(target), "__path__"):
            raise ValueError(
                f"{module_name}, line {node.lineno} imports from the package {target}, which cannot travel. Import "
                "from the module that defines the name."
            )
        imported.append(target)
        flat_import = f"from .{target.split('.')[-1]} import"
        lines[node.lineno - 1] = re.sub(r"from\s+\S+\s+import", flat_import, lines[node.lineno - 1], count=1)
    return "".join(lines), sorted(imported)


def check_folder(save_directory: str | os.PathLike):
    """Refuse to save into a file, before anything is written."""
    if os.path.isfile(save_directory):
        raise NotADirectoryError(
            f"`save_directory` {os.fspath(save_directory)!r} is a file; give a folder, which is made if it is missing."
        )


def has_travelled(public: type) -> bool:
    """Whether a class came with a checkpoint."""
    return public.__module__.split(".")[0] == REMOTE_MODULES_PACKAGE


def is_code_of_package(path: Path) -> bool:
    """Whether a file is this package's own, as its first line says."""
    return COPYRIGHT in path.read_bytes().split(b"\n")[0]


def list_code(public: type) -> list[str]:
    """Names of this package's files that are saved with a configuration or model; a user's own class has none."""
    if has_travelled(public):
        own_folder = Path(sys.modules[public.__module__].__file__).parent
        return [path.name for path in own_folder.glob("*.py") if is_code_of_package(path)]
    if not is_of_package(public):
        return []
    return list(flatten_modules([known.__module__ for known in collect_auto_classes(public).values()]))


def check_code(folder: Path, *classes: type):
    """Refuse to write code over files of other origin, as when a model is saved into the folder of a project."""
    for path in (folder / name for public in classes for name in list_code(public)):
        # An empty file has nothing to lose, and may be one that another process is about to write.
        if path.is_file() and path.stat().st_size > 0 and not is_code_of_package(path):
            raise FileExistsError(
                f"The code of the model would be written over {os.fspath(path)!r}, which did not come with a model. "
                "Save into a folder of its own, or rename that file."
            )


class RemoteCodeConfigMixin:
    """
    Makes a configuration's `save_pretrained` write the code of its models beside it, a full `auto_map`, and the
    version of this package; reading what another version saved is said once, where it matters. A configuration names
    its family in one line, `family_summary`, for the model card.

    Put it before `PreTrainedConfig` in the bases. Knows no family: what travels is what is registered with the Auto
    classes. A configuration that itself came with a checkpoint is already flat; transformers copies its files.
    """

    def __post_init__(self, **kwargs):
        saved_version = kwargs.pop(VERSION_FIELD, None)
        super().__post_init__(**kwargs)
        if saved_version is not None:
            warn_of_version_gap(saved_version)

    def to_dict(self) -> dict:
        """The configuration as a dictionary, with the version of this package beside that of transformers."""
        return {**super().to_dict(), VERSION_FIELD: __version__}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """
        Save the configuration, the flattened code of its models and their `auto_map`.

        Args:
            save_directory (`str` or `os.PathLike`): the folder to write to; made when missing.
            push_to_hub (`bool`): also upload what was saved.
            kwargs: passed on to `push_to_hub` (`repo_id`, `commit_message`, `private`, `token`, ...).

        Raises:
            `NotADirectoryError`: when `save_directory` is a file.
            `FileExistsError`: when a file there has the name of one that travels, and is not one; nothing is written.
        """
        check_folder(save_directory)
        check_code(Path(save_directory), type(self))
        is_of_user = not has_travelled(type(self)) and not is_of_package(type(self))
        if is_of_user:  # its code is theirs to share
            return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        if push_to_hub:
            # The stock path uploads only files newer than its own snapshot, which is taken after ours are written.
            self.save_pretrained(save_directory)
            repo_id = kwargs.pop("repo_id", Path(save_directory).name)
            return self.push_to_hub(repo_id, **kwargs)
        if has_travelled(type(self)):
            return self._save_travelled(Path(save_directory), **kwargs)
        folder, classes = Path(save_directory), collect_auto_classes(type(self))
        files = flatten_modules([model_class.__module__ for model_class in classes.values()])
        ours = {
            auto_class: f"{model_class.__module__.split('.')[-1]}.{model_class.__name__}"
            for auto_class, model_class in classes.items()
        }
        # What `register_for_auto_class` of a user's subclass has just copied here stays what the Auto class loads.
        theirs = {
            name: target
            for name, target in (getattr(self, "auto_map", None) or {}).items()
            if name in ours and (file := f"{target.split('.')[0]}.py") not in files and (folder / file).is_file()
        }
        self.auto_map = {**ours, **theirs}
        super().save_pretrained(save_directory, **kwargs)
        for name, source in files.items():
            (folder / name).write_text(source, encoding="utf-8")

    def _save_travelled(self, folder: Path, **kwargs):
        """
        Save a configuration that came with a checkpoint, with the code that lies beside it.

        In a Hub repository's `auto_map` entries are prefixed `repo--`; they point here once their module is here.
        Entries whose module is neither here nor in a repository are left out.
        """
        own_folder = Path(sys.modules[type(self).__module__].__file__).parent
        auto_map = {}
        for name, target in (getattr(self, "auto_map", None) or {}).items():
            local_target = target.split("--")[-1]
            file_name = f"{local_target.split('.')[0]}.py"
            if (own_folder / file_name).is_file() or (folder / file_name).is_file():
                auto_map[name] = local_target
            elif local_target != target:
                auto_map[name] = target
        self.auto_map = auto_map
        super().save_pretrained(str(folder), **kwargs)
        for path in own_folder.glob("*.py"):
            if path.name != "__init__.py" and not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)


__all__ = ["RemoteCodeConfigMixin", "check_code", "check_folder", "collect_auto_classes", "flatten_modules"]
