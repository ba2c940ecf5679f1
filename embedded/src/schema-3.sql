-- Events that no mapping answered, until one does.
CREATE TABLE unmapped (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL UNIQUE,
    source      TEXT NOT NULL,
    detail_type TEXT NOT NULL,
    why         TEXT NOT NULL,
    bytes       INTEGER NOT NULL,    -- how long its text is
    first       INTEGER NOT NULL,
    last        INTEGER NOT NULL,
    seen        INTEGER NOT NULL
) STRICT;

CREATE INDEX unmapped_last ON unmapped (last, id);

-- Their texts, apart: an event that comes again must not be written again.
CREATE TABLE unmapped_texts (
    seq   INTEGER PRIMARY KEY,
    event TEXT NOT NULL
) STRICT;

-- What is kept, counted with each row, so that no write has to count them all; and what was dropped for want of room.
CREATE TABLE unmapped_count (
    events  INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    dropped INTEGER NOT NULL
) STRICT;

INSERT INTO unmapped_count VALUES (0, 0, 0);

CREATE TRIGGER unmapped_kept AFTER INSERT ON unmapped BEGIN
    UPDATE unmapped_count SET events = events + 1, bytes = bytes + NEW.bytes;
END;

CREATE TRIGGER unmapped_gone AFTER DELETE ON unmapped BEGIN
    DELETE FROM unmapped_texts WHERE seq = OLD.seq;
    UPDATE unmapped_count SET events = events - 1, bytes = bytes - OLD.bytes;
END;
