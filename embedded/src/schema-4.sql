-- What was lent to whom, and what was refused. Ids are ordered by time.
CREATE TABLE loans (
    id     BLOB PRIMARY KEY,
    job    BLOB NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX loans_job ON loans (job, id);
