"""Measures hpcflow beside plain Slurm, a process pool and plain forks in one run, and prints one table.

Times are medians of repetitions that take turns (A B A B), so that a busy moment hits both sides. Ratios hold across
machines; seconds do not. Nothing is asserted: the exit code is 0 unless a run gave a wrong value or did not end.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

sys.path.append(str(Path(__file__).resolve().parents[1]))

from bench import behind_ssh, on_slurm, on_this_machine
from bench.rows import Row, as_markdown, as_text, left_out
from bench.sizes import FULL, QUICK, Size
from bench.telling import tell

#: In the order of the table. The first sentence of each one's docstring says what is measured.
ROWS: Final[dict[str, Callable[[Size], list[Row]]]] = {
    "noops": on_slurm.noops,
    "seconds": on_slurm.seconds,
    "uneven": on_slurm.uneven,
    "chain": on_slurm.chain,
    "stages": on_slurm.stages,
    "warm": on_slurm.warm,
    "numpy": on_slurm.numpy,
    "charged": on_slurm.charged,
    "local": on_this_machine.local,
    "graph": on_this_machine.graph,
    "futures": on_this_machine.futures,
    "covalent": on_this_machine.covalent,
    "page": on_this_machine.page,
    "ssh": behind_ssh.ssh,
    "idle": on_this_machine.idle,
    "start": on_this_machine.start,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description="Measure hpcflow beside what it replaces, and print one table.",
        epilog="Rows:\n" + "\n".join(f"  {name:9} {summary(name)}" for name in ROWS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small counts, once: shows that it runs, measures nothing")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument(
        "--only", choices=sorted(ROWS), action="append", metavar="ROW", help="one of the rows below; may be given again"
    )
    chosen = parser.parse_args(arguments)
    size = QUICK if chosen.quick else FULL
    machine = describe_machine()
    rows: list[Row] = []
    failed = False
    for name, measure in ROWS.items():
        if name not in (chosen.only or ROWS):
            continue
        try:
            rows += measure(size)
        except Exception as error:  # hours of other rows shall not be lost for one
            failed = True
            tell(f"{name} failed: {error}")
            rows.append(left_out(name, f"it failed: {error}"))
    print(as_markdown(rows) if chosen.markdown else as_text(rows))
    print()
    print(f"{machine}. Medians of {size.repetitions} repetitions that take turns; lowest and highest in brackets.")
    if chosen.quick:
        print("Small counts, run once: no figure here means anything.")
    print("Repeat: `make bench`; on a cluster of your own: `python bench/table.py` where sbatch is on the PATH.")
    return 1 if failed else 0


def summary(name: str) -> str:
    """Return what a row measures, in a line."""
    return (ROWS[name].__doc__ or "").partition("\n")[0]


def describe_machine() -> str:
    """Return cores, load before the first run, and versions, in one line."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    slurm = "no Slurm"
    if shutil.which("sinfo") is not None:
        reply = subprocess.run(["sinfo", "--version"], check=False, capture_output=True, text=True)
        slurm = reply.stdout.strip() or slurm
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, load before {load}, {slurm}, Python {platform.python_version()}, Linux {platform.release()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
