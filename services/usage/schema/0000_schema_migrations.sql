-- Says which of these files each dataset has had. Run at every start, before it is read.
CREATE TABLE IF NOT EXISTS `{db}`.schema_migrations {on_cluster} (
  dataset String,
  version UInt16,
  name String,
  applied_at DateTime64(3, 'UTC') DEFAULT now64(3)
) ENGINE = {repl}ReplacingMergeTree ORDER BY (dataset, version)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1;
