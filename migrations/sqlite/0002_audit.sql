-- The audit log: every change of state is one row, and each row's hash covers the row before it.
CREATE TABLE reseal_audit (
    seq         integer PRIMARY KEY CHECK (seq > 0),
    at_ms       integer NOT NULL,       -- Unix milliseconds, as hashed
    actor       text NOT NULL,
    action      text NOT NULL,
    subject     text NOT NULL,
    detail      text NOT NULL,          -- JSON, as hashed
    hash        blob NOT NULL CHECK (length(hash) = 32)
);

CREATE TRIGGER reseal_audit_keep_updated BEFORE UPDATE ON reseal_audit
BEGIN
    SELECT RAISE(ABORT, 'rows of reseal_audit are only ever added');
END;
CREATE TRIGGER reseal_audit_keep_deleted BEFORE DELETE ON reseal_audit
BEGIN
    SELECT RAISE(ABORT, 'rows of reseal_audit are only ever added');
END;
-- INSERT OR REPLACE deletes the row in its way, and fires no trigger for it.
CREATE TRIGGER reseal_audit_no_replace BEFORE INSERT ON reseal_audit
WHEN EXISTS (SELECT 1 FROM reseal_audit WHERE seq = NEW.seq)
BEGIN
    SELECT RAISE(ABORT, 'rows of reseal_audit are only ever added');
END;
