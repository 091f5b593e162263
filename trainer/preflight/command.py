"""`python -m trainer preflight`: every finding, in words or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from trainer.config import ConfigError, compose
from trainer.preflight import feasible_map, preflight

EXIT_DONE, EXIT_ERROR, EXIT_INVALID = 0, 1, 2
_ORDER = ("error", "warning", "info")

USAGE = """python -m trainer preflight [--json] [--map] [preset=.. key=value ..]

Says before step 1 what will not work and what will collapse: for each finding what was measured, why it matters and what to change.
With --map also the share of crop positions that hold each foreground ratio at each threshold."""


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 nothing that cannot work, 1 an error was found, 2 invalid settings."""
    parser = argparse.ArgumentParser(usage=USAGE)
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.add_argument("--map", action="store_true", help="feasible shares for each threshold and ratio")
    asked, overrides = parser.parse_known_args(list(arguments))
    try:
        settings = compose(overrides)
    except ConfigError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return EXIT_INVALID
    found = sorted(preflight(settings, deep=True), key=lambda one: _ORDER.index(str(one["level"])))
    shares = feasible_map(settings) if asked.map and not any(one["path"] == "data.source" for one in found) else []
    if asked.json:
        print(json.dumps({"findings": found, "feasible": shares} if asked.map else found, indent=1))
    else:
        for one in found:
            print(f"{one['level']}: {one['path']}: {one['what']}\n  why: {one['why']}" + (f"\n  do:  {one['mend']}" if one["mend"] else ""))
        for row in shares:
            cells = "  ".join(f"{ratio:g}: {share:.2f}" for ratio, share in zip(row["ratios"], row["shares"], strict=True))  # type: ignore[call-overload]
            print(f"{row['kind']:>6} crops above {row['threshold_hu']:6g} HU   {cells}")
        if all(one["level"] == "info" for one in found):
            print("nothing speaks against it")
    return EXIT_ERROR if any(one["level"] == "error" for one in found) else EXIT_DONE
