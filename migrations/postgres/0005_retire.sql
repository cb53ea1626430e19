-- Verifies: begun before their snapshot, recorded after it. One that has no end proves nothing.
CREATE TABLE reseal_verifications (
    verification bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    target      text NOT NULL REFERENCES reseal_targets (name),
    run_id      text NOT NULL REFERENCES reseal_runs (run_id),  -- the latest run when it began; it was over
    fence_rule  text,                   -- of the fence that was enforced and intact when it began
    fence_since bigint,                 -- Unix milliseconds, as the fence gives it
    began_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    format      text,
    new_key     text,
    position    text,                   -- how far the log of writes was on disk before the snapshot
    row_count   bigint,
    opened      bigint,
    empty       bigint,
    failed      bigint,
    cells       bigint,                 -- count(*) of the same snapshot, times the columns
    failures    text,                   -- JSON: the cells that failed, as far as they were kept
    ended_at    timestamptz
);
CREATE INDEX reseal_verifications_latest ON reseal_verifications (target, verification);

-- Keys that no value is under any more. Data keys are in the registry too; of static and KMS keys this is all we hold.
CREATE TABLE reseal_retirements (
    key         text PRIMARY KEY,       -- static: and its id, a KMS key's name, or data-key: and its id
    state       text NOT NULL CHECK (state IN ('retired', 'destroyed')),
    certificate text NOT NULL,          -- JSON, the very bytes whose hash is in the audit log
    retired_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    destroyed_at timestamptz,
    CHECK ((destroyed_at IS NULL) = (state = 'retired'))
);
CREATE TRIGGER reseal_retirements_keep BEFORE DELETE OR TRUNCATE ON reseal_retirements
    FOR EACH STATEMENT EXECUTE FUNCTION reseal_refuse_delete();
