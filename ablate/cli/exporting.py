"""Tables and tuning phases for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ablate.errors import StudyError
from ablate.proposals import export
from ablate.results import Results
from ablate.study import Tune

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = ("phase", "arm", "verdict", "replicates", "effect", "low", "high", "p_adjusted", "collapse")
"""Of the LaTeX table; the metrics of the study's `columns` follow."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell of a spreadsheet begins with to be run."""


def tables(runs: Path, study: str, csv: Path | None, latex: Path | None) -> list[Path]:
    """Write `arms.csv`, `trials.csv` and `curves.csv`, and `arms.tex` (booktabs).

    Raises:
        StudyError: A folder cannot be written.
    """
    results, written = Results(runs, study), list[Path]()
    try:
        if csv is not None:
            csv.mkdir(parents=True, exist_ok=True)
            metrics = [results.study.objective.metric, *results.study.columns]
            frames = {"arms": results.arms(), "trials": results.trials(), "curves": results.curves(list(dict.fromkeys(metrics)))}
            for name, frame in frames.items():
                harmless(frame).to_csv(csv / f"{name}.csv", index=False)
                written.append(csv / f"{name}.csv")
        if latex is not None:
            latex.mkdir(parents=True, exist_ok=True)
            arms = results.arms()
            wanted = [c for c in (*COLUMNS, results.study.objective.metric, *results.study.columns) if c in arms.columns]
            text = arms[list(dict.fromkeys(wanted))].style.hide(axis="index").format(precision=3, escape="latex", na_rep="--")
            text = text.format_index(escape="latex", axis=1)
            (latex / "arms.tex").write_text(text.to_latex(hrules=True), encoding="utf-8")
            written.append(latex / "arms.tex")
    except OSError as error:
        raise StudyError(study, [f"{error.filename}: expected a folder to write into but got: {error.strerror}."]) from error
    return written


def harmless(frame: DataFrame) -> DataFrame:
    """The same table with a `'` before each text that a spreadsheet would take for a formula, and run."""

    def cell(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    return frame.map(cell).rename(columns=cell)


def optuna_studies(runs: Path, study: str, storage: str) -> list[str]:
    """Each concluded tuning phase as an Optuna study `STUDY/PHASE`; one that is there already is written anew.

    Raises:
        StudyError: There is no concluded tuning phase, or the storage cannot be opened.
    """
    results = Results(runs, study)
    names = []
    for conclusion in results.conclusions:
        phase = results.study.phase(conclusion.phase)
        if isinstance(phase.design, Tune):
            export(storage, f"{study}/{phase.name}", phase, conclusion.points, results.study.objective.direction)
            names.append(f"{study}/{phase.name}")
    if not names:
        raise StudyError(study, ["expected a concluded tuning phase but found none. Run the study to its end first."])
    return names
