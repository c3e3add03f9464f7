"""The tables of the record. `docs/internals/run-record.md` explains them; other programs read them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

VERSION = 1
WAIT_S = 5.0
"""How long a writer waits for another process."""

TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,              -- of the workflow, task or map
    kind TEXT NOT NULL,              -- workflow, dynamic, task, map
    state TEXT NOT NULL,             -- running, done, failed, cancelled
    mode TEXT NOT NULL,              -- engine, inline
    file TEXT,                       -- what `grainwise run` was given; NULL for a call in a program
    entity TEXT,
    started_s REAL NOT NULL,         -- seconds since the epoch, as all times are
    ended_s REAL,
    error TEXT,                      -- `Type: message`
    traceback TEXT,
    n_resumes INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_by_start ON runs (started_s);
CREATE TABLE IF NOT EXISTS drivers ( -- the programs that have worked at a run: the first, and each resume
    run_id TEXT NOT NULL,
    session INTEGER NOT NULL,        -- 0, then 1 for the first resume, ...
    started_s REAL NOT NULL,
    pid INTEGER NOT NULL,
    pid_started INTEGER NOT NULL,    -- clock ticks since boot, 0 if unknown: tells a reused pid
    host TEXT NOT NULL,
    command TEXT NOT NULL,           -- JSON list
    folder TEXT NOT NULL,            -- the working directory
    python TEXT NOT NULL,
    PRIMARY KEY (run_id, session)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (
    run_id TEXT NOT NULL,
    path TEXT NOT NULL,              -- ids joined by slashes: n0, n0/dn2; n0 for what is no workflow
    position INTEGER NOT NULL,       -- in the order of the calls, within its graph
    name TEXT NOT NULL,
    kind TEXT NOT NULL,              -- task, map, workflow, dynamic, conditional
    after TEXT NOT NULL,             -- JSON list: ids of the nodes of the same graph that come before it
    state TEXT NOT NULL,             -- waiting, running, done, failed, cancelled
    environment TEXT NOT NULL,       -- name of the reusable environment or image; '' for the workers
    queued_s REAL,                   -- its inputs were there
    started_s REAL,                  -- it was first handed on
    ended_s REAL,
    is_cached INTEGER NOT NULL DEFAULT 0,
    session INTEGER NOT NULL DEFAULT 0,  -- of the driver that ended it
    n_elements INTEGER,              -- of a map
    error TEXT,
    traceback TEXT,
    PRIMARY KEY (run_id, path)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts ( -- of tasks and maps; retries of elements are in chunks and failures
    run_id TEXT NOT NULL,
    path TEXT NOT NULL,
    session INTEGER NOT NULL,
    attempt INTEGER NOT NULL,        -- from 1
    state TEXT NOT NULL,             -- running, done, failed, cancelled
    queued_s REAL NOT NULL,          -- it was handed on
    started_s REAL,                  -- a worker began; NULL if unknown
    run_s REAL,                      -- so long the function took; NULL if unknown
    ended_s REAL,                    -- its result was here
    pid INTEGER,                     -- of the worker
    error TEXT,
    traceback TEXT,
    PRIMARY KEY (run_id, path, session, attempt)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS "values" (
    run_id TEXT NOT NULL,
    path TEXT NOT NULL,              -- of a node; '' for the run
    role TEXT NOT NULL,              -- inputs, outputs
    name TEXT NOT NULL,
    position INTEGER NOT NULL,
    format TEXT NOT NULL,            -- json, pickle, none (it could not be kept)
    data,                            -- TEXT of JSON, BLOB of a pickle, NULL if it is in a file
    file TEXT,                       -- name in objects/<run_id>/
    n_bytes INTEGER NOT NULL,
    digest BLOB NOT NULL,            -- of data or file, and of where it belongs
    preview TEXT NOT NULL,           -- for people, cut
    PRIMARY KEY (run_id, path, role, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunks (  -- elements of maps that ended at about the same time
    chunk_id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    path TEXT NOT NULL,
    session INTEGER NOT NULL,
    attempt INTEGER NOT NULL,        -- from 1: the round of the map that they ran in
    first INTEGER NOT NULL,          -- index of the first
    n_elements INTEGER NOT NULL,
    indices BLOB,                    -- all indices as little-endian uint64; NULL if they follow each other
    done BLOB,                       -- a bit for each, lowest first: 1 done, 0 failed; NULL if all are done
    n_failed INTEGER NOT NULL,
    is_cached INTEGER NOT NULL,
    ended_s REAL NOT NULL,           -- the last of them
    format TEXT NOT NULL,            -- pickle: a list of the results of those that are done; none
    data BLOB,
    file TEXT,
    n_bytes INTEGER NOT NULL,
    digest BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS chunks_by_node ON chunks (run_id, path);
CREATE TABLE IF NOT EXISTS failures ( -- of elements, each run of each; those done later are done in chunks
    run_id TEXT NOT NULL,
    path TEXT NOT NULL,
    element INTEGER NOT NULL,
    session INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    ended_s REAL NOT NULL,
    error TEXT NOT NULL,
    traceback TEXT NOT NULL,
    PRIMARY KEY (run_id, path, element, session, attempt)
) WITHOUT ROWID;
"""

OF_A_RUN = ("failures", "chunks", '"values"', "attempts", "nodes", "drivers", "runs")
"""Every table; all have `run_id`."""


def open_tables(path: str, *, timeout_s: float = WAIT_S) -> sqlite3.Connection:
    """Open the record, and make its tables if need be.

    Raises:
        sqlite3.Error: it is corrupt, locked or of a later version.
        OSError: the folder can't be used.
    """
    import sqlite3

    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous=NORMAL")
        [version] = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise sqlite3.DatabaseError(f"it was made by a later grainwise: version {version}, not {VERSION}")
        if version < VERSION:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={VERSION}; COMMIT;")
            os.chmod(path, 0o600)
    except BaseException:
        connection.close()
        raise
    return connection
