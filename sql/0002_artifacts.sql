-- What is stored and shipped: files (artifacts) and the trained models among them.

-- One row a file that may be downloaded or loaded. The columns is_sensitive, monitoring_script and
-- require_approval say how the gate treats it.
CREATE TABLE IF NOT EXISTS secmon.artifacts (
  id                text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  name              text NOT NULL,
  type              text NOT NULL,
  url               text,
  path              text,
  size_bytes        bigint CHECK (size_bytes >= 0),
  sha256            text CHECK (sha256 ~ '^[0-9a-f]{64}$'),
  uploaded_by       text,
  is_sensitive      boolean NOT NULL DEFAULT FALSE,
  monitoring_script text,
  require_approval  boolean NOT NULL DEFAULT FALSE,
  metadata          jsonb NOT NULL DEFAULT '{}'::jsonb,
  created_at        timestamptz NOT NULL DEFAULT now()
);

-- Verdicts are bound to bytes, so artifacts are looked up by their hash.
CREATE INDEX IF NOT EXISTS artifacts_sha256 ON secmon.artifacts (sha256);
CREATE INDEX IF NOT EXISTS artifacts_sensitive ON secmon.artifacts (id) WHERE is_sensitive;

-- One row a trained model version. released_at is set by the release step and by nothing else.
CREATE TABLE IF NOT EXISTS secmon.models (
  model_id          text NOT NULL,
  version           text NOT NULL,
  artifact_id       text NOT NULL REFERENCES secmon.artifacts (id),
  estimator         text NOT NULL,
  schema            jsonb NOT NULL DEFAULT '{}'::jsonb,
  metrics           jsonb NOT NULL DEFAULT '{}'::jsonb,
  library_versions  jsonb NOT NULL DEFAULT '{}'::jsonb,
  run_id            text,
  created_at        timestamptz NOT NULL DEFAULT now(),
  released_at       timestamptz,
  PRIMARY KEY (model_id, version)
);

-- The version in use is the one released last.
CREATE INDEX IF NOT EXISTS models_released ON secmon.models (model_id, released_at DESC)
  WHERE released_at IS NOT NULL;

GRANT SELECT, INSERT, UPDATE, DELETE ON secmon.artifacts, secmon.models TO secmon_service;
