"""Crops a second: two global and eight local ones of foreground ratio at least .5 from one memory-mapped scan, beside MONAI and TorchIO.

    PYTHONPATH=. python benchmarks/crops.py [REPETITIONS]

Ours is the trainer's own stream of batches (crops, ratios by two rules, numbers of augmentation). MONAI and TorchIO choose a centre in the
foreground, crop scan and mask, and draw again while the ratio is missed. Each in two forms: as documented, a call a scan; and with all that
depends on the scan alone made beforehand and never again (indices of foreground kept and metadata off in MONAI, a generator never closed in
TorchIO, which has room for few scans: 270 MB for each and size). Every last visit's crops are checked voxel by voxel. One thread each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.side import ROOT, Answer, Side, alternating, have_peers, machine, ratios, spread, started

SIZES = ((96, 48), (32, 16))
"""Global and local edges: those of `ct_gpu`, and small ones."""
RATIO = 0.5
OURS, FLOOR = "ablate's trainer", "bare copying, positions known"
PEERS = {
    "MONAI RandCropByPosNegLabeld": ("crops_monai", {"form": "RandCropByPosNegLabeld", "visits": 2}),
    "MONAI RandWeightedCropd": ("crops_monai", {"form": "RandWeightedCropd", "visits": 1}),
    "TorchIO LabelSampler": ("crops_torchio", {"form": "LabelSampler", "kept_open": False, "visits": 2}),
    "TorchIO WeightedSampler": ("crops_torchio", {"form": "WeightedSampler", "kept_open": False, "visits": 2}),
    "MONAI RandCropByPosNegLabeld, indices kept": ("crops_monai", {"form": "RandCropByPosNegLabeld, indices kept", "visits": 60}),
    "TorchIO LabelSampler, never closed": ("crops_torchio", {"form": "LabelSampler", "kept_open": True, "visits": 60}),
    "TorchIO WeightedSampler, never closed": ("crops_torchio", {"form": "WeightedSampler", "kept_open": True, "visits": 60}),
}


def scan(folder: Path) -> str:
    """Write the scan in a process of its own; says what it is."""
    command = [sys.executable, str(ROOT / "benchmarks/sides/scan.py"), str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout.strip()


def measure(folder: Path, sizes: tuple[int, int], repetitions: int, *, visits: int = 800, peers: bool = True) -> dict[str, list[Answer]]:
    """Seconds a crop, wall and CPU, and violations, by who."""
    settings = {"folder": str(folder), "global": sizes[0], "local": sizes[1], "ratio": RATIO}
    with ExitStack() as stack:
        ours = started(stack, Side("crops_ours", peer=False, settings=settings))
        sides = {OURS: (ours, {"visits": visits}), FLOOR: (ours, {"visits": visits, "copy": True})}
        if peers:
            who = {name: started(stack, Side(name, peer=True, settings=settings)) for name in ("crops_monai", "crops_torchio")}
            sides |= {name: (who[script], question) for name, (script, question) in PEERS.items()}
        return alternating(sides, repetitions)


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="crops-") as folder:
        what = scan(Path(folder))
        for sizes in SIZES:
            found = measure(Path(folder), sizes, repetitions, peers=have_peers())
            print(f"\nCrops of {sizes[0]} and {sizes[1]} voxels from {what}. {machine(repetitions)}\n")
            print("| | crops a second, median (range) | CPU us a crop | violations | ours, times this one: by wall (range) | by CPU |")
            print("| --- | --- | --- | --- | --- | --- |")
            for name, answers in found.items():
                rates = spread([1 / one["wall_s"] for one in answers], 0)
                cpu = statistics.median(1e6 * one["cpu_s"] for one in answers)
                times = spread(ratios(found[OURS], answers, "wall_s"))
                by_cpu = statistics.median(ratios(found[OURS], answers, "cpu_s"))
                print(
                    f"| {name} | {rates} | {cpu:.0f} | {sum(one['violations'] for one in answers):.0f} | {times} | {by_cpu:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
