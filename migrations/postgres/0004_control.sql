-- What operators order of an open run; NULL leaves each process with what it was started with.
ALTER TABLE reseal_runs
    ADD COLUMN paused_by     text,
    ADD COLUMN paused_at     timestamptz,
    ADD COLUMN rate          bigint CHECK (rate >= 0),      -- rows a second of each process; 0: no limit
    ADD COLUMN batch         bigint CHECK (batch > 0),
    ADD COLUMN workers       bigint CHECK (workers > 0);

-- The processes that work on a run, as each said last. For operators only: who may work is decided by leases.
CREATE TABLE reseal_processes (
    run_id           text NOT NULL REFERENCES reseal_runs (run_id),
    process          text NOT NULL,         -- host and process id
    workers          bigint NOT NULL,
    rows_per_second  bigint NOT NULL,
    waiting          text,                  -- why it waits, where it does
    last_seen        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, process)
) WITH (fillfactor = 50);
