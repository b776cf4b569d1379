# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Train three steps on pairs of thoughts and save, alone or under torchrun. For test_contract_next_thought.py.

Arguments: folder, batch per process.
"""

import sys
from pathlib import Path

from tests.test_contract_next_thought import make_trainer
from tests.training.processes import leave_together


if __name__ == "__main__":
    trainer = make_trainer(Path(sys.argv[1]), int(sys.argv[2]))
    trainer.train()
    trainer.save_model()
    leave_together(trainer)
