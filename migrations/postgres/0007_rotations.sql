-- Rotations of secrets: what was decided, what was about to be done, and what became of it.
CREATE TABLE reseal_rotations (
    rotation_id text PRIMARY KEY,
    secret      text NOT NULL,
    strategy    text NOT NULL,
    options     text NOT NULL,          -- JSON: how it was asked for
    phase       text NOT NULL CHECK (phase IN
        ('running', 'rolling-back', 'parked', 'parked-rolling-back', 'done', 'rolled-back')),
    step        text,                   -- the step it is at
    waiting     text,                   -- what it waits for, while it is parked
    until_ms    bigint,                 -- when that is over by itself, in Unix milliseconds
    fence       bigint NOT NULL DEFAULT 0,
    holder      text,
    lease_until timestamptz,
    begun_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz
);
-- One at a time for each secret.
CREATE UNIQUE INDEX reseal_rotations_open ON reseal_rotations (secret) WHERE ended_at IS NULL;

-- The journal. A record is there before what it announces is done.
CREATE TABLE reseal_rotation_records (
    rotation_id text NOT NULL REFERENCES reseal_rotations (rotation_id),
    seq         integer NOT NULL CHECK (seq > 0),
    fence       bigint NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    step        text NOT NULL,
    event       text NOT NULL,
    detail      text NOT NULL,          -- JSON: ids, names and times, never a secret
    PRIMARY KEY (rotation_id, seq)
);

-- Every credential that is known: adopted, minted, given by a person, or left by an interrupted mint. Only these are ever revoked.
CREATE TABLE reseal_credentials (
    credential_id text PRIMARY KEY,
    secret        text NOT NULL,
    provider_id   text,                 -- the provider's id, where it has one
    rotation_id   text REFERENCES reseal_rotations (rotation_id),   -- that brought it
    state         text NOT NULL CHECK (state IN ('pending', 'current', 'stray', 'revoked', 'dead', 'replaced')),
    sealed        bytea,                -- v3, bound to this row; NULL where it is not known, or wiped
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at      timestamptz
);
CREATE UNIQUE INDEX reseal_credentials_current ON reseal_credentials (secret) WHERE state = 'current';
