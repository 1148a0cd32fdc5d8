-- Limits: what each step of each run used, under which limits, and what ended it.
-- Violations themselves are entries of the audit chain, written by the process that watches.

-- One row an attempt of a step, written by the run's process, never by the step.
CREATE TABLE IF NOT EXISTS secmon.step_usage (
  run_id            text NOT NULL,
  step_key          text NOT NULL,
  attempt           integer NOT NULL CHECK (attempt >= 1),
  job_name          text NOT NULL,
  op_name           text NOT NULL,
  -- cgroup2, cgroup1 or sampled: how far the figures and limits can be trusted.
  enforcement       text NOT NULL,
  limits            jsonb NOT NULL,
  outcome           text NOT NULL
    CHECK (outcome IN ('success', 'failure', 'retry', 'interrupted', 'refused')),
  -- The violation that ended the attempt, if one did.
  violation         text CHECK (violation IN (
    'memory_limit_exceeded', 'cpu_limit_exceeded', 'time_limit_exceeded',
    'unauthorized_access', 'invalid_configuration')),
  wall_seconds      double precision NOT NULL CHECK (wall_seconds >= 0),
  cpu_seconds       double precision,
  throttled_seconds double precision,
  peak_memory_bytes bigint,
  read_bytes        bigint,
  written_bytes     bigint,
  ended_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
  user_id           text,
  PRIMARY KEY (run_id, step_key, attempt)
);

-- Suggestions read the last successful attempts of each op of a job.
CREATE INDEX IF NOT EXISTS step_usage_history
  ON secmon.step_usage (job_name, op_name, ended_at DESC) WHERE outcome = 'success';
-- Metrics read on from the last moment they have seen.
CREATE INDEX IF NOT EXISTS step_usage_ended ON secmon.step_usage (ended_at);

-- Readers see what their own runs used; the service sees and writes all.
ALTER TABLE secmon.step_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE secmon.step_usage FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS step_usage_service ON secmon.step_usage;
CREATE POLICY step_usage_service ON secmon.step_usage
  TO secmon_service USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS step_usage_own ON secmon.step_usage;
CREATE POLICY step_usage_own ON secmon.step_usage FOR SELECT
  TO secmon_reader
  USING (user_id = NULLIF(current_setting('secmon.user_id', true), ''));
-- The owner's own statements, such as a retention job's, aren't hidden from it.
DROP POLICY IF EXISTS step_usage_owner ON secmon.step_usage;
CREATE POLICY step_usage_owner ON secmon.step_usage
  TO secmon_owner USING (true) WITH CHECK (true);

GRANT SELECT, INSERT ON secmon.step_usage TO secmon_service;
GRANT SELECT ON secmon.step_usage TO secmon_reader;
