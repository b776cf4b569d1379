# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What does this version of transformers call a cache?

`past_key_values` up to 5.23, `cache` from 5.24 on: in `generate`, in masks, in the fields of outputs. Our own word is
`past_key_values`; what transformers calls, or is handed, has the version's name.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps

from transformers.modeling_outputs import BaseModelOutputWithPast


OUR_NAME, NEW_NAME = CACHE_NAMES = ("past_key_values", "cache")
OUTPUT_FIELDS = {field.name for field in dataclasses.fields(BaseModelOutputWithPast)}
CACHE_NAME = NEW_NAME if NEW_NAME in OUTPUT_FIELDS else OUR_NAME


def accept_cache_names(function: Callable) -> Callable:
    """
    Let a function that has, or hands on, `past_key_values` be given it as `cache` too.

    To stand above all other decorators. Its signature has the version's name, by which `generate` knows what it may
    hand over.

    Raises:
        `ValueError`: when both came.

    >>> accept_cache_names(lambda past_key_values=None: past_key_values)(cache=3)
    3
    """

    @wraps(function)
    def renamed(*args, **kwargs):
        if NEW_NAME in kwargs:
            cache, other = kwargs.pop(NEW_NAME), kwargs.get(OUR_NAME)
            if cache is not None and other is not None:
                raise ValueError(
                    "`cache` and `past_key_values` both came, but they are two names of one argument. Give one."
                )
            if cache is not None:
                kwargs[OUR_NAME] = cache
        return function(*args, **kwargs)

    signature = inspect.signature(function)
    renamed.__signature__ = signature.replace(
        parameters=[
            parameter.replace(name=CACHE_NAME) if parameter.name == OUR_NAME else parameter
            for parameter in signature.parameters.values()
        ]
    )
    return renamed


__all__ = ["CACHE_NAME", "CACHE_NAMES", "accept_cache_names"]
