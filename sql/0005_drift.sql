-- Drift: which models are watched, their baselines, every check with its metrics, and the alerts
-- that wait to be told to someone.

-- One row a watched model. next_due is when its next check is due; the due-ness sensor moves it.
CREATE TABLE IF NOT EXISTS secmon.drift_models (
  model_id          text PRIMARY KEY CHECK (model_id <> ''),
  model_version     text NOT NULL CHECK (model_version <> ''),
  schedule_interval text NOT NULL
    CHECK (schedule_interval IN ('hourly', 'daily', 'weekly', 'custom')),
  schedule_cron     text CHECK ((schedule_interval = 'custom') = (schedule_cron IS NOT NULL)),
  timezone          text NOT NULL DEFAULT 'UTC',
  catch_up          text NOT NULL DEFAULT 'latest' CHECK (catch_up IN ('all', 'latest', 'skip')),
  enabled           boolean NOT NULL DEFAULT TRUE,
  thresholds        jsonb NOT NULL DEFAULT '{}'::jsonb,
  features          text[],
  source            jsonb,
  next_due          timestamptz NOT NULL,
  -- The code location whose YAML declares it; null for a model configured by hand.
  declared_by       text,
  configured_at     timestamptz NOT NULL DEFAULT now()
);
-- The sensor asks for what is due and nothing else.
CREATE INDEX IF NOT EXISTS drift_models_due ON secmon.drift_models (next_due);

-- One row a feature (or output) of a model version's baseline. `ordered` holds the sorted reference
-- values, compressed; the hash of the whole baseline is on each of its rows.
CREATE TABLE IF NOT EXISTS secmon.drift_baselines (
  model_id      text NOT NULL,
  model_version text NOT NULL,
  role          text NOT NULL CHECK (role IN ('input', 'output')),
  feature       text NOT NULL,
  position      integer NOT NULL,
  definition    text NOT NULL,
  summary       jsonb NOT NULL,
  ordered       bytea NOT NULL,
  baseline_hash text NOT NULL CHECK (baseline_hash ~ '^[0-9a-f]{64}$'),
  created_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (model_id, model_version, role, feature)
);

-- What the outcomes of a version's reference were: performance, calibration curve, gaps by stratum.
CREATE TABLE IF NOT EXISTS secmon.drift_outcome_baselines (
  model_id      text NOT NULL,
  model_version text NOT NULL,
  body          jsonb NOT NULL,
  created_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (model_id, model_version)
);

-- One row a check, from PENDING (due, claimed by a daemon) to its end.
CREATE TABLE IF NOT EXISTS secmon.drift_checks (
  check_id        text PRIMARY KEY,
  model_id        text NOT NULL,
  model_version   text NOT NULL,
  due_at          timestamptz,
  run_id          text,
  status          text NOT NULL
    CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped')),
  requested_at    timestamptz NOT NULL DEFAULT now(),
  -- Until then one daemon has it in hand to start its run; afterwards another may.
  leased_until    timestamptz,
  started_at      timestamptz,
  finished_at     timestamptz,
  duration_ms     double precision CHECK (duration_ms >= 0),
  alert_generated boolean NOT NULL DEFAULT FALSE,
  alert_level     text CHECK (alert_level IN ('NORMAL', 'WARNING', 'CRITICAL')),
  reason          text,
  error_message   text,
  baseline_hash   text,
  metrics         jsonb NOT NULL DEFAULT '{}'::jsonb,
  -- A due time is checked once, however many daemons ask.
  UNIQUE (model_id, due_at)
);
-- History is paged newest first, of all models or of one.
CREATE INDEX IF NOT EXISTS drift_checks_recent ON secmon.drift_checks (requested_at DESC, check_id);
CREATE INDEX IF NOT EXISTS drift_checks_of_model
  ON secmon.drift_checks (model_id, requested_at DESC, check_id);
-- Requests whose run never came, and runs that never came back.
CREATE INDEX IF NOT EXISTS drift_checks_open ON secmon.drift_checks (requested_at)
  WHERE status IN ('pending', 'running');
-- New CRITICAL checks, for the alert sensor.
CREATE INDEX IF NOT EXISTS drift_checks_critical ON secmon.drift_checks (finished_at, check_id)
  WHERE alert_level = 'CRITICAL';

-- One row a metric of a check; `value` is what its level was decided on (the PSI of a feature).
CREATE TABLE IF NOT EXISTS secmon.drift_metrics (
  check_id   text NOT NULL REFERENCES secmon.drift_checks (check_id) ON DELETE CASCADE,
  drift_type text NOT NULL
    CHECK (drift_type IN ('input', 'output', 'performance', 'bias', 'safety', 'missing')),
  name       text NOT NULL,
  value      double precision,
  level      text CHECK (level IN ('NORMAL', 'WARNING', 'CRITICAL')),
  sufficient boolean NOT NULL,
  reason     text,
  details    jsonb NOT NULL DEFAULT '{}'::jsonb,
  PRIMARY KEY (check_id, drift_type, name)
);

-- The report of a check as it was shown: a self-contained page, compressed.
CREATE TABLE IF NOT EXISTS secmon.drift_reports (
  check_id text PRIMARY KEY REFERENCES secmon.drift_checks (check_id) ON DELETE CASCADE,
  html     bytea NOT NULL,
  markdown text NOT NULL
);

-- What stands of a model: the level its last told alert had (so that a level that stays is told
-- once) and how its checks went (so that statistics need not count history). The row lock orders
-- checks of one model that end together.
CREATE TABLE IF NOT EXISTS secmon.drift_model_state (
  model_id   text PRIMARY KEY,
  level      text NOT NULL DEFAULT 'NORMAL' CHECK (level IN ('NORMAL', 'WARNING', 'CRITICAL')),
  since      timestamptz NOT NULL DEFAULT now(),
  check_id   text,
  successful bigint NOT NULL DEFAULT 0,
  failed     bigint NOT NULL DEFAULT 0,
  skipped    bigint NOT NULL DEFAULT 0,
  alerts     bigint NOT NULL DEFAULT 0
);

-- Alerts that wait to be delivered, written in the transaction of the check that raised them.
-- delivered_to names the targets (by hash) that have it, so that a retry reaches only the others.
CREATE TABLE IF NOT EXISTS secmon.alert_outbox (
  alert_id        text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  source          text NOT NULL,
  subject_id      text NOT NULL,
  event           text NOT NULL CHECK (event IN ('raised', 'escalated', 'lowered', 'resolved')),
  level           text NOT NULL CHECK (level IN ('NORMAL', 'WARNING', 'CRITICAL')),
  payload         jsonb NOT NULL,
  audit_entry_id  text NOT NULL,
  created_at      timestamptz NOT NULL DEFAULT now(),
  attempts        integer NOT NULL DEFAULT 0,
  next_attempt_at timestamptz NOT NULL DEFAULT now(),
  delivered_to    text[] NOT NULL DEFAULT '{}',
  delivered_at    timestamptz,
  given_up_at     timestamptz,
  last_error      text
);
-- The delivery sensor looks only at what is still to be told.
CREATE INDEX IF NOT EXISTS alert_outbox_waiting ON secmon.alert_outbox (next_attempt_at)
  WHERE delivered_at IS NULL AND given_up_at IS NULL;

-- What models were asked and answered, kept as long as drift windows need it. A feature that was
-- missing is absent from `features`.
CREATE TABLE IF NOT EXISTS secmon.inference_log (
  log_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  model_id      text NOT NULL,
  model_version text NOT NULL,
  logged_at     timestamptz NOT NULL DEFAULT now(),
  features      jsonb NOT NULL,
  prediction    jsonb,
  -- How the caller names the row, so that its label can be added once it is known.
  inference_id  text,
  label         jsonb
);
CREATE INDEX IF NOT EXISTS inference_log_named ON secmon.inference_log (model_id, inference_id)
  WHERE inference_id IS NOT NULL;
-- Windows are the last hours, or the last rows, of one model.
CREATE INDEX IF NOT EXISTS inference_log_recent
  ON secmon.inference_log (model_id, logged_at DESC, log_id DESC);

GRANT SELECT, INSERT, UPDATE, DELETE
  ON secmon.inference_log, secmon.drift_models, secmon.drift_baselines,
     secmon.drift_outcome_baselines, secmon.drift_checks, secmon.drift_metrics,
     secmon.drift_reports, secmon.drift_model_state, secmon.alert_outbox
  TO secmon_service;
