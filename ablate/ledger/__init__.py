"""The record of what was decided and what happened: one SQLite file a study, one writer, many readers."""

from ablate.ledger.book import LOST_LIMIT, Ledger
from ablate.ledger.records import AttemptRecord, Event, Frozen, TrialRecord, Use, Used

__all__ = ["LOST_LIMIT", "AttemptRecord", "Event", "Frozen", "Ledger", "TrialRecord", "Use", "Used"]
