-- VecSec: known patterns, labels from people, guarded documents, events, inference calls and their
-- budget; and what the metrics exporter needs so that counters survive restarts and pruning.

-- pgvector makes nearest-pattern search an index lookup. Only a superuser may create it; where the
-- server hasn't got it, or we may not, numpy searches instead.
RESET ROLE;
DO $$
BEGIN
  CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;
EXCEPTION WHEN OTHERS THEN
  RAISE NOTICE 'pgvector is not available (%): patterns are searched with numpy', SQLERRM;
END
$$;
SET ROLE secmon_owner;

-- What has been learned. A pattern belongs to the source that labelled it, so that one source can be
-- capped and taken back.
CREATE TABLE IF NOT EXISTS secmon.threat_patterns (
  pattern_id   text PRIMARY KEY,
  text         text NOT NULL CHECK (text <> ''),
  label        smallint NOT NULL CHECK (label IN (0, 1)),
  family       text NOT NULL CHECK (family <> ''),
  attack_type  text NOT NULL,
  source       text NOT NULL CHECK (source <> ''),
  -- The embedding holds in one space only: that of the model version named here.
  embedding    real[] CHECK (array_length(embedding, 1) = 64),
  space        text,
  learned_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  retired_at   timestamptz
);

-- A generated column, so that both searches read the same numbers.
DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
    ALTER TABLE secmon.threat_patterns ADD COLUMN IF NOT EXISTS
      vector public.vector(64) GENERATED ALWAYS AS (embedding::public.vector(64)) STORED;
    -- Only what is in use: the search looks at the nearest 40 and would find nothing behind them.
    CREATE INDEX IF NOT EXISTS threat_patterns_vector ON secmon.threat_patterns
      USING hnsw (vector public.vector_cosine_ops) WHERE retired_at IS NULL;
  END IF;
END
$$;

-- Labels people (or a blind test) gave; learning reads those not used yet.
CREATE TABLE IF NOT EXISTS secmon.vecsec_feedback (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  text         text NOT NULL CHECK (text <> ''),
  label        smallint NOT NULL CHECK (label IN (0, 1)),
  family       text NOT NULL DEFAULT 'feedback' CHECK (family <> ''),
  attack_type  text NOT NULL DEFAULT 'none',
  source       text NOT NULL CHECK (source <> ''),
  outcome      text CHECK (outcome IN ('learned', 'capped', 'contradicted'))
);
CREATE INDEX IF NOT EXISTS vecsec_feedback_open ON secmon.vecsec_feedback (id)
  WHERE outcome IS NULL;

-- Versions of the detector; the one in use was activated last.
CREATE TABLE IF NOT EXISTS secmon.vecsec_versions (
  version       text PRIMARY KEY CHECK (version ~ '^[0-9a-f]{64}$'),
  path          text NOT NULL,
  state         text NOT NULL CHECK (state IN ('candidate', 'rejected', 'approved')),
  reason        text NOT NULL DEFAULT '',
  metrics       jsonb NOT NULL DEFAULT '{}'::jsonb,
  created_by    text NOT NULL,
  created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  approved_by   text,
  activated_at  timestamptz,
  CONSTRAINT approver_is_not_author CHECK (approved_by IS NULL OR approved_by <> created_by)
);

-- Documents that retrieval may only give to those who may read them.
CREATE TABLE IF NOT EXISTS secmon.guarded_documents (
  document_id  text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  tenant       text NOT NULL CHECK (tenant <> ''),
  clearance    smallint NOT NULL DEFAULT 0 CHECK (clearance BETWEEN 0 AND 9),
  -- Any one of these roles may read; an empty list means nobody.
  roles        text[] NOT NULL DEFAULT '{}',
  title        text NOT NULL,
  content      text NOT NULL,
  -- Columns a principal may not see are left out by the policy check before the query.
  attributes   jsonb NOT NULL DEFAULT '{}'::jsonb,
  embedding    real[] NOT NULL CHECK (array_length(embedding, 1) = 64),
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS guarded_documents_tenant ON secmon.guarded_documents (tenant, clearance);

-- After COMMIT a transaction-local setting reads as an empty string: nobody's rows are then seen.
ALTER TABLE secmon.guarded_documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE secmon.guarded_documents FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS guarded_documents_read ON secmon.guarded_documents;
CREATE POLICY guarded_documents_read ON secmon.guarded_documents FOR SELECT TO secmon_reader
  USING (
    tenant = NULLIF(current_setting('secmon.tenant', true), '')
    AND clearance <= NULLIF(current_setting('secmon.clearance', true), '')::smallint
    AND roles && string_to_array(NULLIF(current_setting('secmon.roles', true), ''), ',')
  );
-- The service stores and removes documents; it reads them only to do that.
DROP POLICY IF EXISTS guarded_documents_keep ON secmon.guarded_documents;
CREATE POLICY guarded_documents_keep ON secmon.guarded_documents TO secmon_service
  USING (true) WITH CHECK (true);

-- What the platform knows of those who read documents; nobody says this of themselves.
CREATE TABLE IF NOT EXISTS secmon.document_readers (
  subject    text PRIMARY KEY CHECK (subject <> ''),
  tenant     text NOT NULL CHECK (tenant <> ''),
  clearance  smallint NOT NULL DEFAULT 0 CHECK (clearance BETWEEN 0 AND 9),
  roles      text[] NOT NULL DEFAULT '{}'
);

-- Everything VecSec did, one row an act, append-only: what its metrics count.
CREATE TABLE IF NOT EXISTS secmon.vecsec_events (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  kind         text NOT NULL CHECK (kind IN ('analysis', 'analysis_error', 'rlsa_violation',
                 'pattern_learned', 'embedding', 'model_update', 'blind_test')),
  -- Attack type, violation category or what was updated.
  type         text NOT NULL DEFAULT 'none',
  verdict      text CHECK (verdict IN ('allow', 'flag', 'block')),
  count        integer NOT NULL DEFAULT 1 CHECK (count > 0),
  score        double precision,
  similarity   double precision,
  duration     double precision CHECK (duration >= 0),
  -- The prompt itself is not kept: its hash tells two apart.
  text_sha256  text,
  actor        text,
  run_id       text,
  details      jsonb NOT NULL DEFAULT '{}'::jsonb
);
CREATE INDEX IF NOT EXISTS vecsec_events_at ON secmon.vecsec_events (at);

-- Calls to the inference service, failed ones too.
CREATE TABLE IF NOT EXISTS secmon.inference_calls (
  id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at                 timestamptz NOT NULL DEFAULT clock_timestamp(),
  endpoint           text NOT NULL CHECK (endpoint IN ('chat', 'embeddings')),
  status             text NOT NULL CHECK (status IN ('success', 'failed')),
  error              text,
  attempts           integer NOT NULL CHECK (attempts >= 0),
  duration           double precision NOT NULL CHECK (duration >= 0),
  prompt_tokens      bigint NOT NULL DEFAULT 0,
  completion_tokens  bigint NOT NULL DEFAULT 0,
  credits            double precision NOT NULL DEFAULT 0
);

-- One row: what may be spent. Reserved before a call and settled after, so that parallel calls
-- can't overdraw it together.
CREATE TABLE IF NOT EXISTS secmon.inference_budget (
  id        boolean PRIMARY KEY DEFAULT TRUE CHECK (id),
  credits   double precision NOT NULL DEFAULT 0,
  reserved  double precision NOT NULL DEFAULT 0 CHECK (reserved >= 0)
);
INSERT INTO secmon.inference_budget DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Metrics: how far each source has been counted. Identity values are handed out before COMMIT, so a
-- lower one may appear later: `gaps` are those still missing, `seen` the recent keys of sources
-- that are read by time.
CREATE TABLE IF NOT EXISTS secmon.metric_cursors (
  source      text PRIMARY KEY,
  position    bigint NOT NULL DEFAULT 0,
  gaps        bigint[] NOT NULL DEFAULT '{}',
  moment      timestamptz NOT NULL DEFAULT '-infinity',
  seen        text[] NOT NULL DEFAULT '{}',
  updated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Drift checks are counted by the time they ended.
CREATE INDEX IF NOT EXISTS drift_checks_finished ON secmon.drift_checks (finished_at)
  WHERE finished_at IS NOT NULL;

-- Totals since ever; a source's rows may be pruned once counted.
CREATE TABLE IF NOT EXISTS secmon.metric_totals (
  name      text NOT NULL,
  labels    jsonb NOT NULL,
  value     double precision NOT NULL,
  exemplar  text,
  changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (name, labels)
);
-- An exporter knows the totals; it reads what has changed since.
CREATE INDEX IF NOT EXISTS metric_totals_changed ON secmon.metric_totals (changed_at);

-- One sample a minute of each series that changed, and of all once an hour: for export without a
-- Prometheus.
CREATE TABLE IF NOT EXISTS secmon.metric_samples (
  at      timestamptz NOT NULL,
  name    text NOT NULL,
  labels  jsonb NOT NULL,
  value   double precision NOT NULL,
  PRIMARY KEY (name, labels, at)
);
CREATE INDEX IF NOT EXISTS metric_samples_at ON secmon.metric_samples (at);

GRANT SELECT ON secmon.guarded_documents TO secmon_reader;
GRANT SELECT, INSERT ON secmon.vecsec_events, secmon.inference_calls TO secmon_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON
  secmon.threat_patterns, secmon.vecsec_feedback, secmon.vecsec_versions,
  secmon.guarded_documents, secmon.document_readers, secmon.inference_budget,
  secmon.metric_cursors, secmon.metric_totals, secmon.metric_samples TO secmon_service;

-- Dagster's tables belong to the migrating user and may not exist yet: this looks when it is asked.
-- Gives gauges as (metric, labels, value); counts use indexes or small tables. A clock that was put
-- back makes no age negative.
RESET ROLE;
CREATE OR REPLACE FUNCTION secmon.dagster_metrics()
RETURNS TABLE (name text, labels jsonb, value double precision)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
  IF to_regclass('public.runs') IS NOT NULL THEN
    -- States a run passes through are few and short-lived, and status is indexed.
    RETURN QUERY EXECUTE
      'SELECT ''secmon_dagster_runs_in_state''::text,
              jsonb_build_object(''job'', pipeline_name, ''state'', status), count(*)::float8
         FROM public.runs
        WHERE status IN (''QUEUED'', ''NOT_STARTED'', ''STARTING'', ''STARTED'', ''CANCELING'')
        GROUP BY pipeline_name, status';
    RETURN QUERY EXECUTE
      'SELECT ''secmon_dagster_queue_depth''::text, ''{}''::jsonb, count(*)::float8
         FROM public.runs WHERE status = ''QUEUED''';
    RETURN QUERY EXECUTE
      'SELECT ''secmon_dagster_oldest_queued_seconds''::text, ''{}''::jsonb,
              greatest(0, extract(epoch FROM (now() AT TIME ZONE ''UTC'')
                                             - min(create_timestamp)))::float8
         FROM public.runs WHERE status = ''QUEUED''';
  END IF;
  IF to_regclass('public.daemon_heartbeats') IS NOT NULL THEN
    RETURN QUERY EXECUTE
      'SELECT ''secmon_dagster_daemon_heartbeat_age_seconds''::text,
              jsonb_build_object(''daemon'', daemon_type),
              greatest(0, extract(epoch FROM (now() AT TIME ZONE ''UTC'') - timestamp))::float8
         FROM public.daemon_heartbeats';
  END IF;
END
$$;
REVOKE ALL ON FUNCTION secmon.dagster_metrics() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secmon.dagster_metrics() TO secmon_owner, secmon_service;

-- Ended runs and ticks since a given id, for counting: the id, what, and in which state.
CREATE OR REPLACE FUNCTION secmon.dagster_ticks(after bigint, wanted integer)
RETURNS TABLE (id bigint, kind text, name text, status text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
  IF to_regclass('public.job_ticks') IS NOT NULL THEN
    RETURN QUERY EXECUTE
      'SELECT t.id::bigint, lower(coalesce(t.type, ''unknown'')),
              coalesce(substring(t.tick_body from ''"instigator_name": "([^"]*)"''),
                       substring(t.tick_body from ''"job_name": "([^"]*)"''), ''unknown''),
              t.status::text
         FROM public.job_ticks t WHERE t.id > $1 ORDER BY t.id LIMIT $2' USING after, wanted;
  END IF;
END
$$;
REVOKE ALL ON FUNCTION secmon.dagster_ticks(bigint, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secmon.dagster_ticks(bigint, integer) TO secmon_owner, secmon_service;

-- Runs that ended since a moment; a state changes after the insert, so they are read by time.
CREATE OR REPLACE FUNCTION secmon.dagster_ended_runs(since timestamptz, wanted integer)
RETURNS TABLE (run_id text, job text, state text, ended_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
  IF to_regclass('public.runs') IS NOT NULL THEN
    RETURN QUERY EXECUTE
      'SELECT r.run_id::text, r.pipeline_name::text, r.status::text,
              r.update_timestamp AT TIME ZONE ''UTC''
         FROM public.runs r
        WHERE r.status IN (''SUCCESS'', ''FAILURE'', ''CANCELED'')
          AND r.update_timestamp >= greatest($1, ''0001-01-01Z'') AT TIME ZONE ''UTC''
        ORDER BY r.update_timestamp LIMIT $2' USING since, wanted;
  END IF;
END
$$;
REVOKE ALL ON FUNCTION secmon.dagster_ended_runs(timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secmon.dagster_ended_runs(timestamptz, integer)
  TO secmon_owner, secmon_service;
SET ROLE secmon_owner;
