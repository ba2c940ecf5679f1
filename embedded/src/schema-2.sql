-- What limits, pauses and prices need of a record (core/src/wire/record.rs), copied out of it.
ALTER TABLE jobs ADD COLUMN tier INTEGER NOT NULL DEFAULT 2;  -- 0 synchronous, 1 priority, 2 standard: its own, not risen
ALTER TABLE jobs ADD COLUMN permit INTEGER;                   -- which of its capability's permits it holds
ALTER TABLE jobs ADD COLUMN venue TEXT NOT NULL DEFAULT 'fleet';
ALTER TABLE jobs ADD COLUMN cost INTEGER NOT NULL DEFAULT 0;  -- what its runs cost so far, in nano-dollars

UPDATE jobs SET
    tier = CASE record ->> '$.tier' WHEN 'synchronous' THEN 0 WHEN 'priority' THEN 1 ELSE 2 END,
    venue = record ->> '$.venue';

-- A permit is held once: this index is what refuses a second holder, in the same write that takes it.
CREATE UNIQUE INDEX jobs_permit ON jobs (capability, permit) WHERE permit IS NOT NULL;
CREATE INDEX jobs_held ON jobs (capability, tier, created, id) WHERE phase = 'held';

-- What runs without a permit takes a part of its capability's limit, should there be one by now. As small as what runs
-- is: a job pays for it with one entry at its claim, and no count can differ from the records.
CREATE INDEX jobs_unnumbered ON jobs (capability) WHERE phase = 'running' AND permit IS NULL;
