# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""What is missing when a Trainer pushes one of our models, and how does it get there?

Between checkpoints the Trainer pushes copies of the weights and of the configuration, not of the code that the
configuration names; and its model card knows nothing of the model.
"""

import functools
from pathlib import Path

from transformers import Trainer, TrainerCallback, trainer

from .hub_models import HubModelMixin
from .model_card import CARD_NAME, update_model_card
from .remote_code import check_code


def is_ours(model) -> bool:
    """Whether a Trainer saves a whole model of this package, not an adapter of it."""
    return isinstance(model, HubModelMixin) and model.is_whole


class PushCallback(TrainerCallback):
    """Puts the code of the model into the folder that a Trainer is about to push. Every Trainer has one by default."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if args.push_to_hub and state.is_world_process_zero and is_ours(model):
            check_code(Path(args.output_dir), type(model.config))  # the first push would be too late

    def on_push_begin(self, args, state, control, model=None, **kwargs):
        if state.is_world_process_zero and is_ours(model):
            model.config.save_pretrained(args.output_dir)


def extend_trainer():
    """Give every Trainer a [`PushCallback`], and let the card it writes describe a model of this package."""
    if PushCallback in trainer.DEFAULT_CALLBACKS:
        return
    trainer.DEFAULT_CALLBACKS.append(PushCallback)
    write_card = Trainer.create_model_card

    @functools.wraps(write_card)
    def create_model_card(self, *args, **kwargs):
        write_card(self, *args, **kwargs)
        model = self.accelerator.unwrap_model(self.model)
        if self.is_world_process_zero() and is_ours(model):
            update_model_card(Path(self.args.output_dir) / CARD_NAME, model, self.hub_model_id or self.args.output_dir)

    Trainer.create_model_card = create_model_card


__all__ = ["PushCallback", "extend_trainer"]
