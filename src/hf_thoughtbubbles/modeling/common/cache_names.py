# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Compatibility with the rename of `past_key_values` to `cache` in transformers 5.24.

Our code has one name for a KV cache, `past_key_values`. Three wrappers translate it where transformers meets our code:
[`accept_cache_names`] around every public `forward`, [`alias_cache_field`] around output classes, and
[`create_causal_mask`] around transformers' function. Dictionaries that `generate` owns use `CACHE_NAME` as the key.
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
    Decorator of a public `forward`: its argument `past_key_values` may also be passed as `cache`.

    Use it above all other decorators. The signature shows the name of the installed transformers, because `generate`
    reads signatures to decide which arguments it passes.

    Raises:
        `ValueError`: when both names are passed.

    >>> accept_cache_names(lambda past_key_values=None: past_key_values)(cache=3)
    3
    """

    @wraps(function)
    def renamed(*args, **kwargs):
        if NEW_NAME in kwargs:
            cache, other = kwargs.pop(NEW_NAME), kwargs.get(OUR_NAME)
            if cache is not None and other is not None:
                raise ValueError(
                    "Both `cache` and `past_key_values` were passed, but they are two names of one argument. Pass one."
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


def alias_cache_field(output_class: type) -> type:
    """
    Decorator of an output dataclass: `past_key_values` is a constructor argument and an attribute in all versions.

    Use it above `@dataclass`. Where transformers names the field `cache`, both attributes return it; the output's key
    is transformers' own.
    """
    if CACHE_NAME == OUR_NAME:
        return output_class
    construct = output_class.__init__

    @wraps(construct)
    def __init__(self, *args, **kwargs):
        if OUR_NAME in kwargs:
            kwargs[CACHE_NAME] = kwargs.pop(OUR_NAME)
        construct(self, *args, **kwargs)

    # By `type.__setattr__`, because the metaclass of transformers' outputs would wrap it again and log a deprecation.
    type.__setattr__(output_class, "__init__", __init__)
    type.__setattr__(output_class, OUR_NAME, property(lambda self: getattr(self, CACHE_NAME)))
    return output_class


__all__ = ["CACHE_NAME", "CACHE_NAMES", "NEW_NAME", "accept_cache_names", "alias_cache_field"]
