-- A first sweep walks the table as it lies in its file, by rowid (`lo` is its first, `hi` the first that is not part of
-- it, `cursor_key` the last that was dealt with); later ones walk its keys.
ALTER TABLE reseal_shards ADD COLUMN walk TEXT NOT NULL DEFAULT 'keys' CHECK (walk IN ('keys', 'table'));
-- As in Postgres; SQLite has no use for it: a row keeps its rowid.
ALTER TABLE reseal_runs ADD COLUMN horizon INTEGER;
