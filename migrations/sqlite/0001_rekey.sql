-- What reseal keeps of its own, beside the tables it re-keys. Every name starts with reseal_. Times are Unix milliseconds.

-- A target: which table and columns a logical name stands for. v3 values are bound to the logical name.
CREATE TABLE reseal_targets (
    name        text PRIMARY KEY,
    table_oid   integer NOT NULL,
    definition  text NOT NULL,          -- JSON: schema, table, key column and its kind, columns and their encodings
    created_at  integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer))
);

-- The v3 data keys, wrapped. Losing a row loses every value under it: rows are never deleted.
CREATE TABLE reseal_data_keys (
    key_id      blob PRIMARY KEY CHECK (length(key_id) = 16),
    wrap_id     text NOT NULL UNIQUE,
    purpose     text NOT NULL,
    kms         text NOT NULL,
    wrapped     blob,
    state       text NOT NULL CHECK (state IN ('active', 'draining', 'retired', 'destroyed')),
    created_at  integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    CHECK ((wrapped IS NULL) = (state = 'destroyed'))
);
CREATE UNIQUE INDEX reseal_data_keys_one_active ON reseal_data_keys (purpose) WHERE state = 'active';

CREATE TRIGGER reseal_data_keys_keep BEFORE DELETE ON reseal_data_keys
BEGIN
    SELECT RAISE(ABORT, 'rows of reseal_data_keys are never deleted');
END;
-- INSERT OR REPLACE deletes the rows in its way, and fires no trigger for it.
CREATE TRIGGER reseal_data_keys_no_replace BEFORE INSERT ON reseal_data_keys
WHEN EXISTS (
    SELECT 1 FROM reseal_data_keys
    WHERE key_id = NEW.key_id OR wrap_id = NEW.wrap_id
       OR purpose = NEW.purpose AND state = 'active' AND NEW.state = 'active'
)
BEGIN
    SELECT RAISE(ABORT, 'this key id, wrapping or active key is there already');
END;

CREATE TABLE reseal_runs (
    run_id      text PRIMARY KEY,
    target      text NOT NULL REFERENCES reseal_targets (name),
    keys        text NOT NULL,          -- JSON: format, new key, old keys, data key scope; a worker must bring the same
    state       text NOT NULL CHECK (state IN ('running', 'paused', 'complete', 'quarantined', 'chased', 'failed')),
    sweep       integer NOT NULL DEFAULT 1,
    chased      integer NOT NULL DEFAULT 0,  -- how many sweeps after the first found new old-key values, in a row
    row_count   integer NOT NULL,        -- rows when the run was opened, for progress only
    created_at  integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    finished_at integer
);
CREATE UNIQUE INDEX reseal_runs_one_open ON reseal_runs (target) WHERE state IN ('running', 'paused');

-- A shard: one key range of one sweep, its lease, its checkpoint and its counters.
CREATE TABLE reseal_shards (
    run_id      text NOT NULL REFERENCES reseal_runs (run_id),
    sweep       integer NOT NULL,
    shard       integer NOT NULL,
    lo          text,                   -- exclusive; NULL: from the first key
    hi          text,                   -- inclusive; NULL: to the last key
    cursor_key  text,                   -- every row up to here is settled or deferred
    done        integer NOT NULL DEFAULT 0,
    fence       integer NOT NULL DEFAULT 0,
    worker      text,
    lease_until integer,
    scanned     integer NOT NULL DEFAULT 0,
    rekeyed     integer NOT NULL DEFAULT 0,
    current     integer NOT NULL DEFAULT 0,
    empty       integer NOT NULL DEFAULT 0,
    quarantined integer NOT NULL DEFAULT 0,
    vanished    integer NOT NULL DEFAULT 0,
    total       integer NOT NULL DEFAULT 0,
    conflicts   integer NOT NULL DEFAULT 0,
    deferred    integer NOT NULL DEFAULT 0,
    not_urls    integer NOT NULL DEFAULT 0,
    kms_calls   integer NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, sweep, shard)
);

CREATE TABLE reseal_quarantine (
    target      text NOT NULL REFERENCES reseal_targets (name),
    row_key     text NOT NULL,
    column_name text NOT NULL,
    run_id      text NOT NULL,
    reason      text NOT NULL,
    sha256      blob NOT NULL CHECK (length(sha256) = 32),
    first_seen  integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    last_seen   integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    PRIMARY KEY (target, row_key, column_name)
);
