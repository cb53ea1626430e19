-- Verifies: begun before their snapshot, recorded after it. One that has no end proves nothing.
CREATE TABLE reseal_verifications (
    verification integer PRIMARY KEY AUTOINCREMENT,
    target      text NOT NULL REFERENCES reseal_targets (name),
    run_id      text NOT NULL REFERENCES reseal_runs (run_id),  -- the latest run when it began; it was over
    fence_rule  text,                   -- of the fence that was enforced and intact when it began
    fence_since integer,
    began_at    integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    format      text,
    new_key     text,
    position    text,                   -- always NULL: SQLite has no standby
    row_count   integer,
    opened      integer,
    empty       integer,
    failed      integer,
    cells       integer,                -- count(*) of the same snapshot, times the columns
    failures    text,                   -- JSON: the cells that failed, as far as they were kept
    ended_at    integer
);
CREATE INDEX reseal_verifications_latest ON reseal_verifications (target, verification);

-- Keys that no value is under any more. Data keys are in the registry too; of static and KMS keys this is all we hold.
CREATE TABLE reseal_retirements (
    key         text PRIMARY KEY,       -- static: and its id, a KMS key's name, or data-key: and its id
    state       text NOT NULL CHECK (state IN ('retired', 'destroyed')),
    certificate text NOT NULL,          -- JSON, the very bytes whose hash is in the audit log
    retired_at  integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    destroyed_at integer,
    CHECK ((destroyed_at IS NULL) = (state = 'retired'))
);
CREATE TRIGGER reseal_retirements_keep BEFORE DELETE ON reseal_retirements
BEGIN
    SELECT RAISE(ABORT, 'rows of reseal_retirements are never deleted');
END;
-- INSERT OR REPLACE deletes the row in its way, and fires no trigger for it.
CREATE TRIGGER reseal_retirements_no_replace BEFORE INSERT ON reseal_retirements
WHEN EXISTS (SELECT 1 FROM reseal_retirements WHERE key = NEW.key)
BEGIN
    SELECT RAISE(ABORT, 'this key was retired already');
END;
