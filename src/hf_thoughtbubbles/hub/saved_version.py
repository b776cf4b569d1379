# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Does it matter that another version of this package saved a model?"""

from packaging.version import InvalidVersion, Version
from transformers.utils import logging

from ..version import __version__


logger = logging.get_logger(__name__)

VERSION_FIELD = "hf_thoughtbubbles_version"  # in config.json, beside transformers_version


def describe_version_gap(saved: str, reading: str = __version__) -> str | None:
    """
    Say what it means that one version of this package reads what another one saved.

    Releases that differ in their last number compute the same. Before 1.0 the second number, and afterwards the first,
    may change what a saved model computes; a newer second number may bring settings that an older version ignores.

    Args:
        saved (`str`): version that saved the model, as in `config.json`.
        reading (`str`): version that reads it; this one when not given.

    Returns:
        `str` or `None`: one sentence with what to do, or `None` where it does not matter.

    Example:

    >>> describe_version_gap("0.1.7", reading="0.1.0") is None
    True
    >>> print(describe_version_gap("0.2.0", reading="0.1.0").split(":")[0])
    A model saved by hf-thoughtbubbles 0.2.0 is read by 0.1.0
    """
    try:
        theirs, ours = Version(saved), Version(reading)
    except (InvalidVersion, TypeError):
        return (
            f"`{VERSION_FIELD}` in the configuration is {saved!r}, which is no version: whether {reading} computes "
            "what was saved cannot be told. Save the model again with the package that made it."
        )
    is_newer = theirs.release[:2] > ours.release[:2]
    num_compatible = 1 if ours.major else 2
    if not is_newer and theirs.release[:num_compatible] == ours.release[:num_compatible]:
        return None
    risk = "settings it does not know are ignored" if is_newer else "what it computes may have changed"
    return (
        f"A model saved by hf-thoughtbubbles {saved} is read by {reading}: {risk}. To run exactly what was saved, "
        f"install hf-thoughtbubbles {saved}, or load it with `trust_remote_code=True` where hf_thoughtbubbles is not "
        "imported: its own code came with it." + ("" if is_newer else " Save it again once its outputs are checked.")
    )


def warn_of_version_gap(saved: str):
    """Log what [`describe_version_gap`] says, once for each version."""
    message = describe_version_gap(saved)
    if message is not None:
        logger.warning_once(message)


__all__ = ["VERSION_FIELD", "describe_version_gap", "warn_of_version_gap"]
