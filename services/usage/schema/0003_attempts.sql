-- What each attempt at a provider was, in their order: attempts counts them. A model is empty where it is the caller's, a
-- status is 0 without an answer. Events from before have empty arrays.
ALTER TABLE `{db}`.`{dataset}` {on_cluster}
  ADD COLUMN IF NOT EXISTS attempt_providers Array(LowCardinality(String)) AFTER attempts,
  ADD COLUMN IF NOT EXISTS attempt_models Array(LowCardinality(String)) AFTER attempt_providers,
  ADD COLUMN IF NOT EXISTS attempt_statuses Array(UInt16) AFTER attempt_models,
  ADD COLUMN IF NOT EXISTS attempt_milliseconds Array(UInt32) AFTER attempt_statuses,
  ADD COLUMN IF NOT EXISTS attempt_may_be_billed Array(Bool) AFTER attempt_milliseconds;
