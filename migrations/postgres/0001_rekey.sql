-- What reseal keeps of its own, beside the tables it re-keys. Every name starts with reseal_.

-- A target: which table and columns a logical name stands for. v3 values are bound to the logical name.
CREATE TABLE reseal_targets (
    name        text PRIMARY KEY,
    table_oid   bigint NOT NULL,
    definition  text NOT NULL,          -- JSON: schema, table, key column and its kind, columns and their encodings
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The v3 data keys, wrapped. Losing a row loses every value under it: rows are never deleted.
CREATE TABLE reseal_data_keys (
    key_id      bytea PRIMARY KEY CHECK (length(key_id) = 16),
    wrap_id     uuid NOT NULL UNIQUE,
    purpose     text NOT NULL,
    kms         text NOT NULL,
    wrapped     bytea,
    state       text NOT NULL CHECK (state IN ('active', 'draining', 'retired', 'destroyed')),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((wrapped IS NULL) = (state = 'destroyed'))
);
CREATE UNIQUE INDEX reseal_data_keys_one_active ON reseal_data_keys (purpose) WHERE state = 'active';

CREATE FUNCTION reseal_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never deleted', TG_TABLE_NAME
        USING HINT = 'a data key that no value needs any more is retired and then destroyed by reseal';
END $$;
CREATE TRIGGER reseal_data_keys_keep BEFORE DELETE OR TRUNCATE ON reseal_data_keys
    FOR EACH STATEMENT EXECUTE FUNCTION reseal_refuse_delete();

CREATE TABLE reseal_runs (
    run_id      text PRIMARY KEY,
    target      text NOT NULL REFERENCES reseal_targets (name),
    keys        text NOT NULL,          -- JSON: format, new key, old keys, data key scope; a worker must bring the same
    state       text NOT NULL CHECK (state IN ('running', 'paused', 'complete', 'quarantined', 'chased', 'failed')),
    sweep       bigint NOT NULL DEFAULT 1,
    chased      bigint NOT NULL DEFAULT 0,  -- how many sweeps after the first found new old-key values, in a row
    row_count   bigint NOT NULL,        -- rows when the run was opened, for progress only
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
CREATE UNIQUE INDEX reseal_runs_one_open ON reseal_runs (target) WHERE state IN ('running', 'paused');

-- A shard: one key range of one sweep, its lease, its checkpoint and its counters.
CREATE TABLE reseal_shards (
    run_id      text NOT NULL REFERENCES reseal_runs (run_id),
    sweep       bigint NOT NULL,
    shard       bigint NOT NULL,
    lo          text,                   -- exclusive; NULL: from the first key
    hi          text,                   -- inclusive; NULL: to the last key
    cursor_key  text,                   -- every row up to here is settled or deferred
    done        boolean NOT NULL DEFAULT false,
    fence       bigint NOT NULL DEFAULT 0,
    worker      text,
    lease_until timestamptz,
    scanned     bigint NOT NULL DEFAULT 0,
    rekeyed     bigint NOT NULL DEFAULT 0,
    current     bigint NOT NULL DEFAULT 0,
    empty       bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0,
    vanished    bigint NOT NULL DEFAULT 0,
    total       bigint NOT NULL DEFAULT 0,
    conflicts   bigint NOT NULL DEFAULT 0,
    deferred    bigint NOT NULL DEFAULT 0,
    not_urls    bigint NOT NULL DEFAULT 0,
    kms_calls   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, sweep, shard)
) WITH (fillfactor = 50);

CREATE TABLE reseal_quarantine (
    target      text NOT NULL REFERENCES reseal_targets (name),
    row_key     text NOT NULL,
    column_name text NOT NULL,
    run_id      text NOT NULL,
    reason      text NOT NULL,
    sha256      bytea NOT NULL CHECK (length(sha256) = 32),
    first_seen  timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (target, row_key, column_name)
);
