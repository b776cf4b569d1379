# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Functions that build tokenizers, which load with no code of ours."""

from ..exports import export_on_use


__getattr__, __dir__, __all__ = export_on_use(
    __name__,
    {
        "bpe_tokenizer": ("train_bpe_tokenizer",),
        "byte_tokenizer": ("build_byte_tokenizer", "decode_bytes", "encode_bytes"),
        "chat_template": ("set_chat_template",),
        "number_tokenizer": ("build_number_tokenizer",),
    },
)
