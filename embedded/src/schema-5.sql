-- What runs emitted, beside their job's row as bodies are, so that what one run emits lies side by side.
CREATE TABLE records (
    job   INTEGER NOT NULL,          -- the job's row
    epoch INTEGER NOT NULL,
    n     INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    at    INTEGER NOT NULL,
    body  TEXT NOT NULL,
    PRIMARY KEY (job, epoch, n)
) STRICT, WITHOUT ROWID;

-- What all jobs know of assets and findings, each as it was seen last.
CREATE TABLE register (
    register   TEXT NOT NULL,        -- asset, finding
    id         TEXT NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL,
    job        BLOB NOT NULL,        -- its id: the job may be forgotten before what it saw
    epoch      INTEGER NOT NULL,
    n          INTEGER NOT NULL,
    capability TEXT NOT NULL,
    body       TEXT NOT NULL,
    PRIMARY KEY (register, id)
) STRICT;

CREATE INDEX register_last ON register (last_seen);
