"""Print the summary of `make test`: ``python tools/summary.py SECONDS_AT_START``."""

import json
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

RESULTS = Path(__file__).resolve().parent.parent / "_build" / "tests"


def counts(name: str) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of one pytest run."""
    suite = ElementTree.parse(RESULTS / f"{name}.xml").getroot().find("testsuite")
    total, failed, skipped = (
        sum(int(suite.get(key, "0")) for key in keys)
        for keys in (["tests"], ["failures", "errors"], ["skipped"])
    )
    return total - failed - skipped, failed, skipped


def main() -> None:
    """Print the summary."""
    unit, notebooks, pages = counts("unit"), counts("notebooks"), counts("pages")
    covered = json.loads((RESULTS / "coverage.json").read_text(encoding="utf-8"))["totals"]["percent_covered"]
    minutes, seconds = divmod(round(time.time() - float(sys.argv[1])), 60)
    print(f"\nunit tests       {unit[0]} passed, coverage of dcganlib {covered:.1f} %")
    print(f"notebook cells   {notebooks[0]} passed, re-run and compared with what is stored")
    tried = f"{pages[0]} tests in a browser passed" if pages[0] else "not tried: there is no browser"
    print(f"book             rendered, no warnings; {tried}")
    print(f"wall time        {minutes} min {seconds:02d} s\n")
    passed, failed, skipped = (sum(numbers) for numbers in zip(unit, notebooks, pages, strict=True))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")


if __name__ == "__main__":
    main()
