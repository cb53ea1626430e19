-- Re-provisioning every tenant: the runs, and where each tenant is in one.
CREATE TABLE reseal_reprovisions (
    run_id      text PRIMARY KEY,
    target      text NOT NULL,          -- the table's logical name; the journal may be in another database
    options     text NOT NULL,          -- JSON: how it was asked for
    plan        text NOT NULL,          -- the digest of the plan that it follows
    fence       integer NOT NULL DEFAULT 0,
    holder      text,
    lease_until integer,
    begun_at    integer NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS integer)),
    ended_at    integer,
    certificate text,                   -- JSON, the very bytes whose hash is in the audit log
    CHECK ((certificate IS NULL) = (ended_at IS NULL))
);
-- One at a time for each target.
CREATE UNIQUE INDEX reseal_reprovisions_open ON reseal_reprovisions (target) WHERE ended_at IS NULL;

-- A tenant's saga. What a phase will do is there before it is begun.
CREATE TABLE reseal_sagas (
    run_id      text NOT NULL REFERENCES reseal_reprovisions (run_id),
    tenant      text NOT NULL,          -- the row's key
    position    integer NOT NULL,       -- its place in the run's order
    generation  integer NOT NULL CHECK (generation > 0),    -- in the names of what is made for it; grows from run to run
    phase       text NOT NULL DEFAULT '',
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'parked', 'done', 'gone')),
    why         text,                   -- it is parked
    detail      text NOT NULL DEFAULT '{}',     -- JSON: ids and names, never a secret
    sealed      blob,                   -- old and new URLs, v3, bound to this row; wiped when the run ends
    down_from   integer,                -- the tenant's downtime, in Unix milliseconds
    down_to     integer,
    begun_at    integer,
    ended_at    integer,
    PRIMARY KEY (run_id, tenant),
    UNIQUE (run_id, position)
);
CREATE INDEX reseal_sagas_tenant ON reseal_sagas (tenant);
