-- Job records. `record` is the truth (core/src/wire.rs); the other columns are copied out of it for indexes.
CREATE TABLE jobs (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again: bodies go by it
    id         BLOB NOT NULL UNIQUE,
    revision   INTEGER NOT NULL,
    phase      TEXT NOT NULL,
    capability TEXT NOT NULL,
    created    INTEGER NOT NULL,     -- milliseconds since 1970, as all times here
    due        INTEGER,              -- when the reaper must look; null when nothing is left to do
    lane       TEXT,                 -- pool/tier while it waits for a worker, else null
    rang       INTEGER,              -- since when it waits
    epoch      INTEGER NOT NULL,
    settled    INTEGER,              -- when it ended
    record     TEXT NOT NULL
) STRICT;

CREATE INDEX jobs_created ON jobs (created, id);
CREATE INDEX jobs_due ON jobs (due) WHERE due IS NOT NULL;
CREATE INDEX jobs_lane ON jobs (lane, rang, id, epoch) WHERE lane IS NOT NULL;
CREATE INDEX jobs_settled ON jobs (settled) WHERE settled IS NOT NULL AND due IS NULL;

-- Payloads (epoch 0) and results (the epoch that made them): written once, never rewritten with the record. By the
-- job's row number and not by its id, so that new ones lie side by side and a commit touches few pages.
CREATE TABLE bodies (
    job   INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    body  TEXT NOT NULL,
    PRIMARY KEY (job, epoch)
) STRICT, WITHOUT ROWID;

-- What the yard knows about itself.
CREATE TABLE yard (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
