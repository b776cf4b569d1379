# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Callback that completes what a Trainer pushes to the Hub."""

from pathlib import Path

from transformers import TrainerCallback

from .hub_models import HubModelMixin
from .model_card import CARD_NAME, PACKAGE_TAG, build_model_card, update_model_card
from .resaving import check_folder


class HubCallback(TrainerCallback):
    """Put the code and the card of a model of this package into `output_dir` before a Trainer pushes it, tags too."""

    def on_train_begin(self, args, state, control, **kwargs):
        if args.push_to_hub:  # a file that is in the way is an error now, not at the first push
            self._prepare(args, state, write=False, **kwargs)

    def on_push_begin(self, args, state, control, **kwargs):
        self._prepare(args, state, write=True, **kwargs)

    def _prepare(self, args, state, write: bool, model=None, **kwargs):
        if state.is_world_process_zero and isinstance(model, HubModelMixin) and model.saves_full_model:
            card, repo_id = Path(args.output_dir) / CARD_NAME, args.hub_model_id or Path(args.output_dir).name
            text = update_model_card(card, model, repo_id) if card.exists() else str(build_model_card(model, repo_id))
            check_folder(Path(args.output_dir), model.config.export_code()[0])
            if write:  # not before training: an older model there would get the new configuration
                model.config.save_pretrained(args.output_dir)
                card.write_text(text, encoding="utf-8")
            model.add_model_tags([PACKAGE_TAG, model.config.model_type])  # type: ignore[attr-defined]  # of the model
