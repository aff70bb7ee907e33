"""Print the bench's accuracy results as a Markdown table: errors of GPU and CPU energy in percent, a column a tracker.

python table.py results/accuracy.json [--first tracker]
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

LARGE = 100


def main() -> None:
    """Read the results and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--first", default="tracker", help="the column that comes first")
    options = parser.parse_args()
    cells = defaultdict(lambda: defaultdict(list))
    for run in json.loads(options.results.read_text()):
        is_failed = run.get("failed") or not run.get("report")
        text = "fails" if is_failed else f"{percent(run.get('gpu_err'))} / {percent(run.get('cpu_err'))}"
        cells[run["scenario"], run["dur"]][run["peer"]].append(text)
    peers = sorted({peer for row in cells.values() for peer in row}, key=lambda peer: (peer != options.first, peer))
    print(f"| scenario, s | {' | '.join(peers)} |")
    print("|---" * (len(peers) + 1) + "|")
    for (scenario, seconds), row in sorted(cells.items()):
        values = (", ".join(row.get(peer, ["–"])) for peer in peers)
        print(f"| {scenario}, {seconds:g} | {' | '.join(values)} |")


def percent(error: float | None) -> str:
    """An error with its sign; a dash where the tracker gives no figure."""
    if error is None:
        return "–"
    return f"{error:+.3f}" if abs(error) < LARGE else f"{error:+.0f}"


if __name__ == "__main__":
    main()
