"""Everything that `ablate` raises on purpose.

AblateError
├── StudyError          the study file or the call is invalid; exit code 2
│   ├── StudyChanged    the study, its code or its data differ from what its first run froze
│   └── OverBudget      the study is estimated to take more than its budget
├── TrainerError        the trainer the study names cannot be imported or breaks its contract; exit code 2
├── StudyBusy           another controller runs this study; exit code 2
├── LedgerError         the ledger cannot be read or written; exit code 2
│   └── LedgerFull      for want of space; exit code 3, resumable
├── DiskFull            a file could not be written for want of space; exit code 3, resumable
├── NotWritable         a file could not be written, or read, because of what it or its folder is; exit code 2
├── BaselineFailed      no replicate of the arm that all others pair with reports the objective; exit code 1
├── BudgetSpent         the budget is used up before the study ended; exit code 3, resumable
├── Interrupted         the user stopped the run; exit code 3, resumable
└── Reopened            a retry opened phases again; never leaves the runner
"""

from __future__ import annotations

import errno
from collections.abc import Sequence


class AblateError(Exception):
    """Base of all: a message that says what was expected, what came, where, and what to do."""

    exit_code = 2


class StudyError(AblateError):
    """A study file or a call with problems, all of them at once, each with its path."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where = where
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([f"{where} has {count}:", *(f"  {problem}" for problem in self.problems)]))


class StudyChanged(StudyError):
    """The study, its code or its data differ from what its first run froze."""


class OverBudget(StudyError):
    """The study is estimated to take more than its budget, and nobody said yes to that."""


class TrainerError(AblateError):
    """The trainer cannot be imported or breaks its contract."""


class StudyBusy(AblateError):
    """Another controller holds the study."""


class LedgerError(AblateError):
    """The ledger cannot be read or written."""


class DiskFull(AblateError):
    """A file could not be written for want of space, or of quota."""

    exit_code = 3


class NotWritable(AblateError):
    """A file could not be written, or read, because of what it or its folder is."""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def of_the_disk(error: OSError) -> AblateError | None:
    """What the file system says no to, as a message that mends; None: something else is wrong."""
    where, what = error.filename or "a file of this run", error.strerror or str(error)
    if error.errno in _FULL:
        return DiskFull(
            f"{where}: expected space on the disk but got: {what}. "
            "Nothing that is recorded is lost: free some, and run the same command again."
        )
    if error.errno in _CLOSED:
        return NotWritable(f"{where}: expected a file or folder that may be written but got: {what}. Choose another place with --runs.")
    return None


class BaselineFailed(AblateError):
    """No replicate of the arm that all others pair with has a result, or reports the objective, so nothing can be decided."""

    exit_code = 1


class LedgerFull(LedgerError):
    """The ledger cannot be written for want of space."""

    exit_code = 3


class BudgetSpent(AblateError):
    """The budget is used up before the study ended."""

    exit_code = 3


class Interrupted(AblateError):
    """The user stopped the run; the same command goes on."""

    exit_code = 3


class Reopened(AblateError):
    """A retry opened phases of a running study again: the runner begins at the first open one."""
