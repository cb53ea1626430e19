-- What a data key was wrapped as before it was wrapped anew, until a verify: the way back.
ALTER TABLE reseal_data_keys ADD COLUMN previous_kms text;
ALTER TABLE reseal_data_keys ADD COLUMN previous_wrapped bytea
    CHECK (previous_wrapped IS NULL OR state <> 'destroyed');

-- Values sealed ahead, for a swap in one transaction. Of each row and column the value that was opened, and the one that is to
-- replace it; NULL where it stays.
CREATE TABLE reseal_stagings (
    target      text PRIMARY KEY REFERENCES reseal_targets (name),
    keys        text NOT NULL,          -- JSON, as of a run
    state       text NOT NULL CHECK (state IN ('preparing', 'swapped')),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    swapped_at  timestamptz
);
CREATE TABLE reseal_staged (
    target      text NOT NULL REFERENCES reseal_stagings (target),
    row_key     text COLLATE "C" NOT NULL,
    old         bytea[] NOT NULL,       -- by column, as stored
    new         bytea[] NOT NULL,
    PRIMARY KEY (target, row_key)
);
