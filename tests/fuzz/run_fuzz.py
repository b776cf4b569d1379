# Copyright 2026 The hf-thoughtbubbles team. Licensed under the Apache License, Version 2.0.
"""The fuzzer without an end: fresh seeds for every check of every family, until the time is over.

    python -m tests.fuzz.run_fuzz --seconds 3600 --processes 2
    python -m tests.fuzz.run_fuzz --only generic/cache --seed 17 --round 4     # the same examples again

A round runs every cell (a family and a check) once, with a seed of its own that follows from the seed of the run, the
cell and the round. Ends with exit code 1 when any check failed.
"""

import argparse
import collections
import logging
import multiprocessing
import multiprocessing.queues
import os
import random
import sys
import time
import traceback
import zlib
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st


LONGEST_REPORT = 6000  # characters of one finding


@dataclass
class Report:
    """What one process found."""

    num_examples: collections.Counter = field(default_factory=collections.Counter)
    num_failures: collections.Counter = field(default_factory=collections.Counter)
    findings: dict = field(default_factory=dict)  # (cell, kind of error) -> how to repeat it, and the example
    num_rounds: int = 0


def run_once(cell: str, base_seed: int, number: int, num_examples: int, report: Report):
    """Run one cell of a round; a failure is shrunk, recorded and does not stop the others."""
    from tests.fuzz.checks import run_cell

    @seed(zlib.crc32(f"{base_seed} {cell} {number}".encode()))
    @settings(
        deadline=None,
        max_examples=num_examples,
        database=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data):
        report.num_examples[cell] += 1
        run_cell(cell, data.draw)

    try:
        run()
    except Exception as error:
        report.num_failures[cell] += 1
        kind = type(error).__name__ + " " + "".join(c for c in str(error).split("\n")[0][:80] if not c.isdigit())
        if (cell, kind) not in report.findings:
            again = f"python -m tests.fuzz.run_fuzz --only {cell} --seed {base_seed} --round {number}"
            text = "".join(traceback.format_exception(error, limit=-6))
            text = text if len(text) < LONGEST_REPORT else text[:2000] + "\n ...\n" + text[-LONGEST_REPORT:]
            report.findings[cell, kind] = f"{again} --examples {num_examples}\n{text}"
            print(f"FOUND {cell}: {type(error).__name__}: {str(error)[:300]}\n  {again}", flush=True)


def run_rounds(options: argparse.Namespace, first: int, queue):
    """Run every second round (of two processes) until the time is over; puts the report into the queue."""
    import torch
    import transformers

    from tests.fuzz.checks import list_cells

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.logging.disable_progress_bar()
    report, number = Report(), first
    cells = [cell for cell in list_cells() if options.only in (None, cell)]
    if not cells:
        raise SystemExit(f"`--only {options.only}` names no cell; they are {list_cells()}.")
    try:
        while time.monotonic() < options.end or (options.round is not None and number == first):
            order = list(cells)
            random.Random(number).shuffle(order)  # so that an early end favours no cell
            for cell in order:
                if time.monotonic() >= options.end and options.round is None:
                    break
                run_once(cell, options.seed, number, options.examples, report)
            if options.round is not None:
                break
            number += options.processes
            report.num_rounds += 1
    finally:
        queue.put(report)


def print_summary(reports: list[Report], base_seed: int, num_lost: int) -> int:
    """Print counts and findings; returns the exit code."""
    examples, failures, findings = collections.Counter(), collections.Counter(), {}
    for report in reports:
        examples.update(report.num_examples)
        failures.update(report.num_failures)
        findings = {**report.findings, **findings}
    for (cell, kind), text in sorted(findings.items()):
        print(f"\n==== {cell}: {kind}\n{text}")
    families = sorted({cell.split("/")[0] for cell in examples})
    checks = sorted({cell.split("/")[1] for cell in examples})
    print(
        f"\nseed {base_seed}: {sum(examples.values())} examples; of each check and family (failed rounds in brackets)"
    )
    print(" ".join([" " * 13, *(f"{family:>20}" for family in families)]))
    for check in checks:
        cells = [f"{family}/{check}" for family in families]
        counts = [f"{examples[cell]}" + (f" ({failures[cell]})" if failures[cell] else "") for cell in cells]
        print(" ".join([f"{check:13}", *(f"{'-' if count == '0' else count:>20}" for count in counts)]))
    print(f"{len(findings)} findings" + (f"; {num_lost} processes ended without a report" if num_lost else ""))
    return int(bool(findings) or num_lost > 0)


def main() -> int:
    """Fuzz in processes of their own, and print what they found."""
    parser = argparse.ArgumentParser(description="Check drawn models of every family until the time is over.")
    parser.add_argument("--seconds", type=float, default=3600, help="how long to run (default: an hour)")
    parser.add_argument("--seed", default="", help="seed of the run, a whole number (default: a drawn one)")
    parser.add_argument("--processes", type=int, default=2, help="number of processes")
    parser.add_argument("--examples", type=int, default=20, help="examples of a cell in each round")
    parser.add_argument("--only", help="run one cell, as `generic/cache`")
    parser.add_argument("--round", type=int, help="run one round, by its number, and end")
    options = parser.parse_args()
    options.seed = int(options.seed) if options.seed else random.SystemRandom().randrange(2**31)
    options.end = time.monotonic() + options.seconds
    if options.round is not None:
        options.processes = 1
    print(f"FUZZ_SEED={options.seed}, {options.processes} processes, {options.seconds:g} seconds", flush=True)

    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    queue, reports, num_lost = context.Queue(), [], 0
    first = 0 if options.round is None else options.round
    workers = [context.Process(target=run_rounds, args=(options, first + i, queue)) for i in range(options.processes)]
    for worker in workers:
        worker.start()
    while len(reports) + num_lost < len(workers):
        try:
            reports.append(queue.get(timeout=5))
        except multiprocessing.queues.Empty:
            num_lost = sum(worker.exitcode not in (None, 0) for worker in workers)
    for worker in workers:
        worker.join()
    return print_summary(reports, options.seed, num_lost)


if __name__ == "__main__":
    sys.exit(main())
