# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""`hf-thoughtbubbles plan`: operations, memory and hours of a training run, from a configuration alone.

hf-thoughtbubbles plan thoughtbubbles-772m --num-devices 8 --device h100
hf-thoughtbubbles plan runs/demo/thoughtbubbles --num-tokens 1e8 --device rtx-4090
"""

import argparse
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from ..configuration.configuration_thoughtbubbles import ThoughtbubblesConfig
from ..evaluation.flops import LENGTHS
from ..evaluation.plan import DEVICES, GIGA, plan_training


# Layers, width and heads that give the parameters which the paper (arXiv 2510.00219, table 1) names.
PAPER_SIZES = {"thoughtbubbles-150m": (16, 768, 12), "thoughtbubbles-772m": (36, 1280, 20)}
PAPER_TOKENS, PAPER_BLOCK = 2.5e9, 512
OTHER_LENGTHS = sorted({name for names in LENGTHS.values() for name in names})


def build_parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(
        prog="hf-thoughtbubbles plan",
        description="Say what a training run needs, in bfloat16 with AdamW. Nothing is trained or downloaded but the "
        "configuration.",
    )
    parser.add_argument(
        "model", help=f"folder or Hub name of a configuration, or a run of the paper: {', '.join(PAPER_SIZES)}"
    )
    parser.add_argument("--device", default="h100", choices=sorted(DEVICES), help="kind of device (default: h100)")
    parser.add_argument("--num-devices", type=int, default=1, help="number of devices (default: 1)")
    parser.add_argument("--num-tokens", type=float, default=PAPER_TOKENS, help="tokens to train on (default: 2.5e9)")
    parser.add_argument("--block-size", type=int, help="tokens of a row (default: at most 512)")
    parser.add_argument("--fork-budget", type=float, help="streams per token (default: the configuration's)")
    parser.add_argument(
        "--utilisation", type=float, default=0.35, help="share of the device's speed that is reached (default: 0.35)"
    )
    parser.add_argument("--sharded", action="store_true", help="divide weights and optimizer over devices (FSDP)")
    parser.add_argument("--price-per-hour", type=float, help="of one device, in any currency")
    for name in OTHER_LENGTHS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=float if name == "bytes_per_patch" else int)
    return parser


def load_config(name: str, fork_budget: float | None) -> PreTrainedConfig:
    """The configuration of a run of the paper, a folder or a repository."""
    changes = {} if fork_budget is None else {"fork_budget": fork_budget}
    if name not in PAPER_SIZES:
        return AutoConfig.from_pretrained(name, **changes)
    layers, width, heads = PAPER_SIZES[name]
    return ThoughtbubblesConfig(
        vocab_size=50257,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=PAPER_BLOCK,
        fork_layers=[3, 7, 11],
        **{"fork_budget": 4.0, **changes},
    )


def main(arguments: Sequence[str] | None = None):
    """Compute and print; errors of the arguments end with status 2."""
    parser = build_parser()
    args = vars(parser.parse_args(arguments))
    lengths = {name: value for name in OTHER_LENGTHS if (value := args.pop(name)) is not None}
    name, fork_budget, is_sharded = args.pop("model"), args.pop("fork_budget"), args.pop("sharded")
    try:
        config = load_config(name, fork_budget)
        args["block_size"] = args["block_size"] or min(PAPER_BLOCK, config.max_position_embeddings)
        plan = plan_training(config, is_sharded=is_sharded, **args, **lengths)
    except (ValueError, OSError, StrictDataclassError) as error:
        parser.error(str(error))
    state, on_each = plan.state_bytes / GIGA, plan.state_bytes_per_device / GIGA
    room = DEVICES[args["device"]].memory_bytes / GIGA
    print(f"parameters     {plan.num_parameters / 1e6:,.1f} million")
    print(f"operations     {plan.flops:.3g} FLOPs for {args['num_tokens']:.3g} tokens in rows of {args['block_size']}")
    print(f"memory         {state:.1f} GB of weights, gradients and optimizer, without activations")
    print(f"on each device {on_each:.1f} of {room:.0f} GB{'' if plan.fits else ': does not fit, try --sharded'}")
    if plan.cache_bytes:
        print(f"KV cache       {plan.cache_bytes / 1e6:,.1f} MB for a row of {args['block_size']} tokens")
    days = plan.hours / 24
    print(
        f"time           {plan.hours:,.1f} hours ({days:,.1f} days) on {args['num_devices']} x {args['device']}, if "
        f"training reaches {args['utilisation']:.0%} of their speed"
    )
    if plan.cost is not None:
        print(f"cost           {plan.cost:,.0f}")
