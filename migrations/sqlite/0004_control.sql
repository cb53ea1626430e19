-- What operators order of an open run; NULL leaves each process with what it was started with.
ALTER TABLE reseal_runs ADD COLUMN paused_by text;
ALTER TABLE reseal_runs ADD COLUMN paused_at integer;
ALTER TABLE reseal_runs ADD COLUMN rate      integer CHECK (rate >= 0);     -- rows a second of each process; 0: no limit
ALTER TABLE reseal_runs ADD COLUMN batch     integer CHECK (batch > 0);
ALTER TABLE reseal_runs ADD COLUMN workers   integer CHECK (workers > 0);

-- The processes that work on a run, as each said last. For operators only: who may work is decided by leases.
CREATE TABLE reseal_processes (
    run_id           text NOT NULL REFERENCES reseal_runs (run_id),
    process          text NOT NULL,         -- host and process id
    workers          integer NOT NULL,
    rows_per_second  integer NOT NULL,
    waiting          text,                  -- why it waits, where it does
    last_seen        integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    PRIMARY KEY (run_id, process)
);
