"""Print the results of ``--benchmark-json=FILE`` as Markdown tables, one per group: ``table.py FILE``."""

import json
import sys
from pathlib import Path


def main(path):
    groups = {}
    for result in json.loads(Path(path).read_text(encoding="utf-8"))["benchmarks"]:
        groups.setdefault(result["group"], []).append(result)
    for group, results in groups.items():
        floors = [r for r in results if "floor" in r["name"]] or results[:1]
        base = floors[0]["stats"]["min"]
        print(f"\n### {group}\n\n| | ms | µs/atom | ratio | notes |\n|---|---|---|---|---|")
        for r in results:
            info = dict(r["extra_info"])
            info.pop("atoms", None)
            name = r["name"].split("[")[0].removeprefix("test_").replace("_", " ")
            shortest = r["stats"]["min"]
            numbers = f"{1e3 * shortest:.4g} | {info.pop('us_per_atom'):.3g} | {shortest / base:.3g}"
            print(f"| {name} | {numbers} | {', '.join(f'{k} {v:.4g}' for k, v in info.items())} |")


if __name__ == "__main__":
    main(sys.argv[1])
