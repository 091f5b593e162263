"""What a benchmark prints is kept between its own marks."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.keep import README, replaced

MAKEFILE = Path(__file__).resolve().parents[2] / "Makefile"


def test_only_what_stands_between_the_marks_of_the_name_is_exchanged() -> None:
    text = "a\n<!-- one -->\nold\n<!-- end of one -->\nb\n<!-- two -->\nkept\n<!-- end of two -->\n"
    found = replaced(text, "one", "| \\1 | new |\n")
    assert found == "a\n<!-- one -->\n| \\1 | new |\n<!-- end of one -->\nb\n<!-- two -->\nkept\n<!-- end of two -->\n"
    assert replaced(found, "three", "lost") == found


def test_every_mark_of_the_readme_is_paired_and_names_a_benchmark_of_make_bench() -> None:
    text = README.read_text(encoding="utf-8")
    begun, ended = re.findall(r"<!-- (\w+) -->", text), re.findall(r"<!-- end of (\w+) -->", text)
    assert begun
    assert begun == ended
    line = re.search(r"^BENCHMARKS := (.*)$", MAKEFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    assert set(begun) <= set(line[1].split())
