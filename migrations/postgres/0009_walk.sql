-- A first sweep walks the table as it lies in its file; later ones walk its keys.
ALTER TABLE reseal_shards ADD COLUMN walk text NOT NULL DEFAULT 'keys' CHECK (walk IN ('keys', 'table'));
COMMENT ON COLUMN reseal_shards.lo IS 'walk keys: exclusive, NULL from the first key; walk table: first block';
COMMENT ON COLUMN reseal_shards.hi IS 'walk keys: inclusive, NULL to the last key; walk table: first block that is not part of it';
-- What transactions from this one on wrote, the first sweep leaves to the next: its own new row versions, for one.
ALTER TABLE reseal_runs ADD COLUMN horizon bigint;
