-- The audit log: every change of state is one row, and each row's hash covers the row before it.
CREATE TABLE reseal_audit (
    seq         bigint PRIMARY KEY CHECK (seq > 0),
    at_ms       bigint NOT NULL,        -- Unix milliseconds, as hashed
    actor       text NOT NULL,
    action      text NOT NULL,
    subject     text NOT NULL,
    detail      text NOT NULL,          -- JSON, as hashed
    hash        bytea NOT NULL CHECK (length(hash) = 32)
);

CREATE FUNCTION reseal_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are only ever added', TG_TABLE_NAME;
END $$;
CREATE TRIGGER reseal_audit_keep BEFORE UPDATE OR DELETE OR TRUNCATE ON reseal_audit
    FOR EACH STATEMENT EXECUTE FUNCTION reseal_refuse_change();
