# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Train three steps and save, alone or under torchrun. For test_trainer.py.

Arguments: folder, batch per process, family.
"""

import sys

from tests.families import FAMILIES
from tests.training.processes import leave_together
from tests.training.test_trainer import make_trainer


if __name__ == "__main__":
    trainer = make_trainer(
        sys.argv[1],
        next(family for family in FAMILIES if family.name == sys.argv[3]).build(),
        max_steps=3,
        per_device_train_batch_size=int(sys.argv[2]),
        optim="sgd",
        train_sampling_strategy="sequential",
    )
    labels = [[-100] * (i % 7) + row["labels"][i % 7 :] for i, row in enumerate(trainer.train_dataset)]
    trainer.train_dataset = trainer.train_dataset.remove_columns("labels").add_column("labels", labels)
    trainer.train()
    trainer.save_model()
    leave_together(trainer)
