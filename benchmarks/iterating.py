"""What run.iterate costs an item, beside a bare loop over the same range in the same run.

python benchmarks/iterating.py [--items 2000000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import tracker


def took_ns(items: Iterable[int], count: int) -> float:
    """Of each item, in a loop that does nothing."""
    began_s = time.perf_counter()
    for _ in items:
        pass
    return (time.perf_counter() - began_s) / count * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2_000_000)
    count = parser.parse_args().items
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRACKER_DB"] = str(Path(folder) / "runs.db")
        os.environ.setdefault("TRACKER_ZONE", "FR")
        with tracker.track("benchmark") as live:
            pairs = [(took_ns(range(count), count), took_ns(live.iterate(range(count)), count)) for _ in range(5)]
    bare_ns, ours_ns = sorted(pairs, key=lambda pair: pair[1])[2]
    print(f"bare loop {bare_ns:.0f} ns an item, iterate {ours_ns:.0f} ns: {ours_ns - bare_ns:.0f} ns more")


if __name__ == "__main__":
    main()
