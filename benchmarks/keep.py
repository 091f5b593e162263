"""Run a benchmark and keep what it prints in benchmarks/README.md, between the marks that bear its name.

    PYTHONPATH=. python benchmarks/keep.py NAME [ARGUMENT ...]

Without marks it is only run. The README stays as it is where the benchmark fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

README = Path(__file__).parent / "README.md"


def replaced(text: str, name: str, found: str) -> str:
    """The text with what stands between `<!-- NAME -->` and `<!-- end of NAME -->` exchanged."""
    begins, ends = f"<!-- {name} -->", f"<!-- end of {name} -->"
    return re.sub(f"{begins}.*?{ends}", lambda _: f"{begins}\n{found.strip()}\n{ends}", text, flags=re.DOTALL)


def main() -> None:
    name, *arguments = sys.argv[1:]
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), *arguments]
    began, said = time.perf_counter(), []
    print(f"== {name} {' '.join(arguments)}", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", env=os.environ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
    print(f"== {name}: {time.perf_counter() - began:.0f} s", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    README.write_text(replaced(README.read_text(encoding="utf-8"), name, "".join(said)), encoding="utf-8")


if __name__ == "__main__":
    main()
