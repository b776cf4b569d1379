# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""Measure what `import hf_thoughtbubbles` adds to importing transformers: time and modules.

    python benchmarks/import_time.py

Each of 5 new processes imports four names of transformers, then the package. Printed are the medians.
"""

import json
import statistics
import subprocess
import sys


NUM_RUNS = 5
FORBIDDEN_MODULES = {"accelerate", "datasets", "matplotlib", "pandas", "peft", "scipy"}
SOURCE = """
import json, sys, time
start = time.perf_counter()
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, GenerationMixin
middle, earlier = time.perf_counter(), set(sys.modules)
import hf_thoughtbubbles
end = time.perf_counter()
print(json.dumps([middle - start, end - middle, sorted(set(sys.modules) - earlier)]))
"""


def main():
    """Import in new processes and print the medians."""
    runs = []
    for _ in range(NUM_RUNS):
        printed = subprocess.run([sys.executable, "-c", SOURCE], capture_output=True, text=True, check=True).stdout
        runs.append(json.loads(printed.splitlines()[-1]))
    first_seconds, added_seconds = (statistics.median(run[i] for run in runs) for i in range(2))
    ratio = statistics.median(run[1] / run[0] for run in runs)
    added = runs[0][2]
    forbidden = sorted({name.split(".")[0] for name in added} & FORBIDDEN_MODULES)
    print(f"transformers {first_seconds:.2f} s, hf_thoughtbubbles {added_seconds:.3f} s more: {ratio:.1%}")
    print(f"{len(added)} modules added; of {', '.join(sorted(FORBIDDEN_MODULES))}: {', '.join(forbidden) or 'none'}")


if __name__ == "__main__":
    main()
