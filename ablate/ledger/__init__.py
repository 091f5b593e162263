"""The record of what was decided and what happened: one SQLite file a study, one writer, many readers."""

from typing import TYPE_CHECKING, Any

from ablate.ledger.records import AttemptRecord, Event, Frozen, TrialRecord, Use, Used

if TYPE_CHECKING:
    from ablate.ledger.book import LOST_LIMIT, Ledger

__all__ = ["LOST_LIMIT", "AttemptRecord", "Event", "Frozen", "Ledger", "TrialRecord", "Use", "Used"]


def __getattr__(name: str) -> Any:
    """The ledger itself when it is asked for: SQLAlchemy takes .2 s, which whoever needs only the values does not pay."""
    if name in ("LOST_LIMIT", "Ledger"):
        from ablate.ledger import book

        return getattr(book, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
