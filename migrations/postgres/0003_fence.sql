-- The fence: at most one a target. No row: the fence is off.
CREATE TABLE reseal_fences (
    target      text PRIMARY KEY REFERENCES reseal_targets (name),
    mode        text NOT NULL CHECK (mode IN ('observe', 'enforce')),
    rule        text NOT NULL,          -- what a write must be: 'v2', or 'v3 under data-key:' and its id
    objects     text NOT NULL,          -- JSON: its triggers and functions, as the catalog showed them when they were made
    since       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Writes that an observing fence let through. Never a value, nor a part of one.
CREATE TABLE reseal_fence_events (
    event_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    transaction_id text,
    role        text,                   -- who logged in, whatever role it then took
    application text,
    address     text,                   -- NULL for a socket; behind a pooler, the pooler's
    backend     bigint,
    operation   text NOT NULL,
    column_name text NOT NULL,
    row_key     text,
    wrote       text NOT NULL           -- what the value looks like: a format, and a data key that is registered
);
CREATE INDEX reseal_fence_events_who
    ON reseal_fence_events (target, role, application, address, column_name, wrote);
