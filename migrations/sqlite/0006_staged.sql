-- What a data key was wrapped as before it was wrapped anew, until a verify: the way back.
ALTER TABLE reseal_data_keys ADD COLUMN previous_kms text;
ALTER TABLE reseal_data_keys ADD COLUMN previous_wrapped blob
    CHECK (previous_wrapped IS NULL OR state <> 'destroyed');

-- Values sealed ahead, for a swap in one transaction. Of each row and column the value that was opened, and the one that is to
-- replace it; NULL where it stays.
CREATE TABLE reseal_stagings (
    target      text PRIMARY KEY REFERENCES reseal_targets (name),
    keys        text NOT NULL,          -- JSON, as of a run
    state       text NOT NULL CHECK (state IN ('preparing', 'swapped')),
    created_at  integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    swapped_at  integer
);
CREATE TABLE reseal_staged (
    target      text NOT NULL REFERENCES reseal_stagings (target),
    row_key     text NOT NULL,
    column_no   integer NOT NULL,       -- the target's column, from 0
    old         blob NOT NULL,
    new         blob,
    PRIMARY KEY (target, row_key, column_no)
) WITHOUT ROWID;
