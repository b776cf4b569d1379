# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Byte-level tokenizers, whose ids 0 to 255 are the bytes themselves.

The tokenizer is a plain `tokenizer.json` recipe (no class of ours), so a saved one loads through `AutoTokenizer` with
no code. Tokenizers take Unicode strings only; for bytes that are not UTF-8 use [`encode_bytes`] and [`decode_bytes`].
"""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


NUM_BYTES = 256
BOS_TOKEN, EOS_TOKEN, PAD_TOKEN = "<|bos|>", "<|eos|>", "<|pad|>"


def byte_alphabet() -> dict[str, int]:
    """Map the printable character that stands for a byte in byte-level tokenizers, as in GPT-2's, to the byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(NUM_BYTES) if byte not in printable]
    stand_ins = {byte: chr(byte) for byte in printable}
    stand_ins |= {byte: chr(NUM_BYTES + i) for i, byte in enumerate(others)}
    return {stand_ins[byte]: byte for byte in range(NUM_BYTES)}


def build_byte_tokenizer(
    special_tokens: tuple[str, ...] = (BOS_TOKEN, EOS_TOKEN, PAD_TOKEN), model_max_length: int | None = None
) -> PreTrainedTokenizerFast:
    """
    Build a byte-level tokenizer.

    Args:
        special_tokens (`tuple[str]`): tokens from id 256 on, in this order. Those called `<|bos|>`, `<|eos|>` and
            `<|pad|>` take that role.
        model_max_length (`int`, *optional*): longest input, in tokens, that the tokenizer accepts without a warning.

    Returns:
        `PreTrainedTokenizerFast` whose ids 0 to 255 are the bytes of the UTF-8 text. Text that spells a special token
        stays bytes, also in a chat template; with `split_special_tokens=False` in a call it becomes the special id.

    Raises:
        `ValueError`: when special tokens repeat, are empty or stand for a byte.

    Example:

    >>> tokenizer = build_byte_tokenizer()
    >>> tokenizer("é<|eos|>").input_ids == list("é<|eos|>".encode())
    True
    >>> tokenizer.eos_token_id
    257
    """
    if isinstance(special_tokens, str) or len(set(special_tokens)) != len(special_tokens):
        raise ValueError(
            f"`special_tokens` {special_tokens!r} repeat or are one string; pass a tuple with each token once."
        )
    backend = Tokenizer(models.BPE(vocab=byte_alphabet(), merges=[], cache_capacity=0))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    if backend.get_vocab_size() != NUM_BYTES + len(special_tokens):
        raise ValueError(
            f"`special_tokens` {special_tokens!r} hold an empty token or one that stands for a byte; use longer names."
        )
    roles = {"bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "pad_token": PAD_TOKEN}
    limits = {} if model_max_length is None else {"model_max_length": model_max_length}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        **{role: token for role, token in roles.items() if token in special_tokens},
        **limits,
    )


def encode_bytes(data: bytes | bytearray | memoryview) -> list[int]:
    """
    The ids of any bytes, which are the bytes themselves; they need not be valid UTF-8.

    >>> encode_bytes(b"\\xffA")
    [255, 65]
    """
    if isinstance(data, str):
        raise TypeError("`data` is text; pass bytes (`text.encode()`) or call the tokenizer.")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"`data` is of type {type(data).__name__}; pass bytes.")
    return list(bytes(data))


def decode_bytes(ids: Iterable[int]) -> bytes:
    """
    The bytes of ids, without special tokens.

    Args:
        ids (`Iterable[int]`): token ids, a list or a one-dimensional tensor or array.

    Raises:
        `ValueError`: for a negative id.
        `TypeError`: for text, several texts, or numbers that are not whole.

    >>> decode_bytes([257, 255, 65])
    b'\\xffA'
    """
    if isinstance(ids, (str, bytes)):
        raise TypeError(f"`ids` is of type {type(ids).__name__}; pass token ids.")
    values = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    try:
        lowest = min(values, default=0)
        data = bytes([value for value in values if 0 <= value < NUM_BYTES])
    except TypeError as error:
        raise TypeError(f"`ids` is not a flat list of whole numbers ({error}); pass the ids of one text.") from error
    if lowest < 0:
        raise ValueError(f"`ids` holds {int(lowest)}; ids are 0 to 255 for bytes and higher for special tokens.")
    return data


__all__ = ["build_byte_tokenizer", "decode_bytes", "encode_bytes"]
