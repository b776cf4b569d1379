# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Attention to parts equals attention to the joined parts with a mask, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from hf_thoughtbubbles import LoopedThinkerForCausalLM
from hf_thoughtbubbles.modeling.looped_thinker.part_attention import attend_parts
from tests.families import NATIVE_PARTS, draw_ids, make_thinker_text_config


SCALE = 0.37


def draw_parts(num_parts, num_new, num_entries, dtype, num_kv_heads=6):
    """A query `(2, 6, num_new, 4)`, and keys and values of each part."""
    sizes = [(num_new, 6), *[(num_entries, num_kv_heads)] * (2 * num_parts)]
    return [torch.randn(2, *size, 4, dtype=dtype).transpose(1, 2).requires_grad_() for size in sizes]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize(("num_new", "num_entries"), [(37, 37), (5, 11)], ids=["causal", "mask"])
@pytest.mark.parametrize("num_kv_heads", [6, 2], ids=["heads", "groups"])
def test_parts_equal_the_joined_memory(num_new, num_entries, dtype, error, num_kv_heads):
    query, *parts = draw_parts(3, num_new, num_entries, dtype, num_kv_heads)
    is_visible = torch.ones(num_new, num_entries, dtype=torch.bool).tril(num_entries - num_new)[None, None]
    mask = None
    if num_new != num_entries:
        is_visible = is_visible.repeat(2, 1, 1, 1)
        is_visible[1, ..., :2] = False  # the second row begins with padding
        mask = torch.zeros(is_visible.shape).masked_fill(~is_visible, torch.finfo(torch.float).min)
    output = attend_parts(query, tuple(parts), mask, SCALE)
    key, value = torch.cat(parts[::2], dim=2), torch.cat(parts[1::2], dim=2)
    key, value = (states.repeat_interleave(6 // num_kv_heads, dim=1) for states in (key, value))
    expected = F.scaled_dot_product_attention(query, key, value, is_visible.repeat(1, 1, 1, 3), scale=SCALE)
    torch.testing.assert_close(output, expected, atol=error, rtol=error)
    upstream = torch.randn_like(output)
    grads, expected_grads = (torch.autograd.grad(out, (query, *parts), upstream) for out in (output, expected))
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=error, rtol=error)


@pytest.mark.parametrize("num_kv_heads", [6, 2], ids=["heads", "groups"])
@pytest.mark.parametrize("is_padded", [False, True])
def test_stacked_parts_of_a_single_token_equal_separate_ones(is_padded, num_kv_heads):
    query, *parts = (states.detach() for states in draw_parts(3, 1, 7, torch.float64, num_kv_heads))
    mask = torch.zeros(2, 1, 1, 7, dtype=torch.float64)
    mask[1, ..., :3] = torch.finfo(torch.float64).min
    mask = mask if is_padded else None
    storage = [torch.zeros(5, 2, num_kv_heads, 9, 4, dtype=torch.float64) for _ in range(2)]
    for states, kind in zip(storage, (parts[::2], parts[1::2]), strict=True):
        states[1:4, :, :, :7] = torch.stack(kind)
    stack = tuple(states[1:4].narrow(3, 0, 7) for states in storage)
    torch.testing.assert_close(attend_parts(query, stack, mask, SCALE), attend_parts(query, tuple(parts), mask, SCALE))


@pytest.mark.parametrize(
    "window", [{}, {"num_memory_steps": 2, "num_read_steps": 1}, NATIVE_PARTS], ids=["all", "window", "groups"]
)
def test_training_equals_eager_attention(window):
    """In float64: loss and gradients of the fused path and of joined parts with a mask."""
    torch.manual_seed(0)
    config = make_thinker_text_config(num_steps=4, num_hidden_layers=2, **window)
    model, ids = LoopedThinkerForCausalLM(config).double().train(), draw_ids(2, 11)
    found = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    for grad, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(grad, expected, atol=1e-10, rtol=1e-8)


def test_autocast_gives_the_loss_and_gradients_of_its_dtype():
    model, ids = LoopedThinkerForCausalLM(make_thinker_text_config(num_steps=3)).train(), draw_ids(2, 11)
    expected = model(ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=0.05, rtol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
