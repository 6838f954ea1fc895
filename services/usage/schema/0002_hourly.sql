-- What each hour that is over comes to, once for everyone and once for each user: one INSERT writes an hour whole, and
-- only the hour's highest generation counts. The generation is the hour's events plus those of them that did not crash: it
-- grows whenever an event comes, or takes the place of a crashed one, so that it does not matter who recomputes when.
-- No TTL: these rows stay readable when the events are gone.
CREATE TABLE IF NOT EXISTS `{db}`.`{dataset}_hourly` {on_cluster} (
  everyone Bool,
  user_id String,
  hour DateTime64(0, 'UTC') CODEC(Delta(8), ZSTD(1)),
  provider LowCardinality(String),
  model LowCardinality(String),
  path LowCardinality(String),
  type LowCardinality(String),
  generation UInt64 CODEC(T64, ZSTD(1)),
  requests UInt64 CODEC(T64, ZSTD(1)),
  errors UInt64 CODEC(T64, ZSTD(1)),
  input_tokens UInt64 CODEC(T64, ZSTD(1)),
  output_tokens UInt64 CODEC(T64, ZSTD(1)),
  total_tokens UInt64 CODEC(T64, ZSTD(1)),
  cached_tokens UInt64 CODEC(T64, ZSTD(1)),
  reasoning_tokens UInt64 CODEC(T64, ZSTD(1)),
  ocr_pages UInt64 CODEC(T64, ZSTD(1)),
  input_cost_nanousd Int64 CODEC(T64, ZSTD(1)),
  output_cost_nanousd Int64 CODEC(T64, ZSTD(1)),
  ocr_cost_nanousd Int64 CODEC(T64, ZSTD(1)),
  unpriced_requests UInt64 CODEC(T64, ZSTD(1)),
  timed_requests UInt64 CODEC(T64, ZSTD(1)),
  latency_ms UInt64 CODEC(T64, ZSTD(1))
) ENGINE = {repl}ReplacingMergeTree(generation) PARTITION BY toYYYYMM(hour)
ORDER BY (everyone, user_id, hour, provider, model, path, type)
SETTINGS default_compression_codec = 'ZSTD(1)',
  fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1;

-- How far the hourly rows reach: every hour before sealed_before has in them all that was ingested before counted_until
-- (by the clock of the database). What came later makes its hour be read from the events until the next run. The last row
-- inserted counts: each one is true, so that of two processes either may be the last.
CREATE TABLE IF NOT EXISTS `{db}`.`{dataset}_sealed` {on_cluster} (
  counted_until DateTime64(3, 'UTC'),
  sealed_before DateTime64(0, 'UTC')
) ENGINE = {repl}ReplacingMergeTree ORDER BY tuple()
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1, min_compressed_bytes_to_fsync_after_merge = 1;
