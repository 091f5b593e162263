"""The ledger's tables."""

from __future__ import annotations

from sqlalchemy import Column, Float, Integer, MetaData, PrimaryKeyConstraint, String, Table

SCHEMA_VERSION = 1

schema = MetaData()
frozen = Table(
    "frozen",
    schema,
    Column("id", Integer, primary_key=True),
    Column("document", String, nullable=False),
    Column("code_version", String, nullable=False),
    Column("data_hash", String, nullable=False),
    Column("created", Float, nullable=False),
)
arms = Table(
    "arms",
    schema,
    Column("id", Integer, primary_key=True),
    Column("phase", String, nullable=False, index=True),
    Column("name", String, nullable=False),
    Column("levels", String, nullable=False),
)
uses = Table(
    "uses",
    schema,
    Column("id", Integer, primary_key=True),
    Column("phase", String, nullable=False, index=True),
    Column("arm", String, nullable=False),
    Column("replicate", Integer, nullable=False),
    Column("signature", String, nullable=False, index=True),
)
trials = Table(
    "trials",
    schema,
    Column("id", Integer, primary_key=True),
    Column("signature", String, nullable=False, unique=True),
    Column("replicate", Integer, nullable=False),
    Column("state", String, nullable=False, index=True),
    Column("attempt", Integer),
    Column("cause", String),
    Column("message", String, nullable=False, default=""),
    Column("seconds", Float),
)
attempts = Table(
    "attempts",
    schema,
    Column("signature", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("worker", String, nullable=False),
    Column("started", Float, nullable=False),
    Column("ended", Float),
    Column("cause", String),
    Column("message", String, nullable=False, default=""),
    Column("seconds", Float),
    PrimaryKeyConstraint("signature", "number"),
)
devices = Table(  # GPUs that a worker held; none: it has no row
    "devices",
    schema,
    Column("worker", String, primary_key=True),
    Column("gpus", Float, nullable=False),
)
retries = Table(  # a trial that a user let run again: attempts up to this number no longer speak against it
    "retries",
    schema,
    Column("signature", String, primary_key=True),
    Column("above", Integer, nullable=False),
)
conclusions = Table(
    "conclusions",
    schema,
    Column("id", Integer, primary_key=True),
    Column("phase", String, nullable=False, unique=True),
    Column("document", String, nullable=False),
)
events = Table(
    "events",
    schema,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("text", String, nullable=False),
)
sessions = Table(
    "sessions",
    schema,
    Column("id", Integer, primary_key=True),
    Column("started", Float, nullable=False),
    Column("seconds", Float, nullable=False),
)
