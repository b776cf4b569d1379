# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""How does generated text appear byte by byte, with never half a character shown?"""

import codecs
from itertools import groupby

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TextIteratorStreamer, TextStreamer

from ..tokenization.byte_tokenizer import NUM_BYTES, byte_alphabet


class ByteTextStreamer(TextStreamer):
    """
    Streamer of a byte-level model, for `generate(streamer=...)`: prints each character once its last byte is there.

    Each byte is decoded once, where `TextStreamer` decodes its text again for every token and holds a word back until
    the space after it. Bytes that are not UTF-8 become U+FFFD, just as `bytes.decode(errors="replace")` of the whole
    gives. To send the text elsewhere, override `on_finalized_text(text, stream_end)`; it is called with text to show,
    and once at the end.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of `build_byte_tokenizer`, or another whose ids 0 to 255 are the bytes
            and whose other tokens are all added ones.
        skip_prompt (`bool`): whether to leave out the first ids that come, which `generate` makes the prompt.
        decode_kwargs: `skip_special_tokens` (`bool`, default `False`) leaves ids from 256 on out; else their text is
            shown. Either way they end an unfinished character, as U+FFFD. Ids that the tokenizer lacks have no text.

    Raises:
        `TypeError`: for another keyword.
        `ValueError`: for a tokenizer whose ids 0 to 255 are not the bytes, or which has tokens of several bytes.

    Example:

    >>> from hf_thoughtbubbles import build_byte_tokenizer
    >>> streamer = ByteTextStreamer(build_byte_tokenizer())
    >>> streamer.put(torch.tensor([[67, 97, 102, 195]]))
    Caf
    >>> streamer.put(torch.tensor([169]))
    é
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, skip_prompt: bool = False, **decode_kwargs):
        unknown = sorted(decode_kwargs.keys() - {"skip_special_tokens"})
        if unknown:
            raise TypeError(f"`decode_kwargs` has {unknown}; only `skip_special_tokens` is known, leave others out.")
        if not _has_byte_ids(tokenizer):
            raise ValueError(
                f"`tokenizer` is a {type(tokenizer).__name__} of {len(tokenizer)} tokens; its ids 0 to 255 must be "
                "the bytes and the others added tokens, use `build_byte_tokenizer()` or transformers' own streamers."
            )
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def put(self, value: torch.Tensor | np.ndarray):
        """
        Show the characters that the new ids complete.

        Args:
            value (`torch.Tensor` or `np.ndarray` of shape `(n,)` or `(1, n)`): token ids, one or more.

        Raises:
            `ValueError`: for another shape, such as a batch of several texts, or a negative id.
        """
        if value.ndim not in (1, 2) or (value.ndim == 2 and value.shape[0] != 1):
            raise ValueError(
                f"`value` has shape {tuple(value.shape)}; it must be (n,) or (1, n), so generate one text at a time."
            )
        is_prompt, self.next_tokens_are_prompt = self.next_tokens_are_prompt, False
        if is_prompt and self.skip_prompt:
            return
        text = self._decode(value.reshape(-1).tolist())
        if text:
            self.on_finalized_text(text)

    def end(self):
        """Show an unfinished character as U+FFFD and be ready for the next text."""
        text = self.decoder.decode(b"", final=True)
        self.next_tokens_are_prompt = True
        self.on_finalized_text(text, stream_end=True)

    def _decode(self, ids: list[int]) -> str:
        """The characters that the ids complete."""
        if ids and min(ids) < 0:
            raise ValueError(f"`value` holds {min(ids)}; ids are 0 to 255 for bytes and higher for special tokens.")
        parts = []
        for is_bytes, run in groupby(ids, key=lambda token_id: token_id < NUM_BYTES):
            if is_bytes:
                parts.append(self.decoder.decode(bytes(run)))
                continue
            parts.append(self.decoder.decode(b"", final=True))
            if not self.decode_kwargs.get("skip_special_tokens", False):
                parts += [token for token in self.tokenizer.convert_ids_to_tokens(list(run)) if token is not None]
        return "".join(parts)


class ByteTextIteratorStreamer(ByteTextStreamer, TextIteratorStreamer):
    """
    As [`ByteTextStreamer`], but to iterate over: the text waits in a queue, for `generate` to run in another thread.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): as of [`ByteTextStreamer`].
        skip_prompt (`bool`): as of [`ByteTextStreamer`].
        timeout (`float`, *optional*): seconds to wait for the next characters before `queue.Empty` is raised; by
            default for ever, also when `generate` has failed in its thread.
        decode_kwargs: as of [`ByteTextStreamer`].

    Raises:
        `TypeError`: for an unknown keyword.
        `ValueError`: for a tokenizer whose ids are not bytes.

    Example:

    >>> from hf_thoughtbubbles import build_byte_tokenizer
    >>> streamer = ByteTextIteratorStreamer(build_byte_tokenizer(), timeout=1.0)
    >>> for byte in "é!".encode():
    ...     streamer.put(torch.tensor([byte]))
    >>> streamer.end()
    >>> list(streamer)
    ['é', '!', '']
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs,
    ):
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout


def _has_byte_ids(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether ids 0 to 255 are the bytes and all other tokens were added."""
    if tokenizer.vocab_size != NUM_BYTES:
        return False
    return tokenizer.convert_ids_to_tokens(list(range(NUM_BYTES))) == list(byte_alphabet())


__all__ = ["ByteTextIteratorStreamer", "ByteTextStreamer"]
