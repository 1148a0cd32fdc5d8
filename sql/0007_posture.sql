-- Posture: under which rules an agent instance runs, what it did, how far it can be trusted, and
-- which workflows have proven themselves. Ids are text, so that a query may compare them with any
-- string without failing.

-- An enum sorts by meaning: ORDER BY severity DESC puts critical first, which text would not.
CREATE TYPE secmon.check_severity AS ENUM ('low', 'medium', 'high', 'critical');

-- The rules. They are shared by all tenants, so there is no row-level security here; only
-- administrators write them (the API sees to that).
CREATE TABLE secmon.security_layers (
  layer_id        text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  name            text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
  description     text NOT NULL DEFAULT '',
  config          jsonb NOT NULL CHECK (jsonb_typeof(config) = 'object'),
  monitoring_mode text NOT NULL CHECK (monitoring_mode IN ('passive', 'active', 'strict')),
  created_by      text,
  created_at      timestamptz NOT NULL DEFAULT now()
);

-- The two layers that exist from the start, under ids that never change.
INSERT INTO secmon.security_layers (layer_id, name, description, config, monitoring_mode, created_by)
VALUES
  ('default', 'Default Security Layer', 'For everyday instances: watched, warned, throttled.',
   '{"max_execution_time": 300000, "max_memory_mb": 512, "allowed_network_access": true,
     "require_approval": false, "auto_terminate_on_violation": false,
     "log_all_activities": true, "max_requests_per_minute": 60}', 'active', 'secmon'),
  ('strict', 'Strict Security Layer', 'For sensitive work: approved first, cut off, ended at once.',
   '{"max_execution_time": 180000, "max_memory_mb": 256, "allowed_network_access": false,
     "require_approval": true, "auto_terminate_on_violation": true,
     "log_all_activities": true, "max_requests_per_minute": 30}', 'strict', 'secmon');

-- An agent that acts. scopes are the actions it may take; NULL means none were declared.
-- activity_schemas maps an action to the JSON Schema its details must satisfy.
CREATE TABLE secmon.agent_instances (
  instance_id      text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  owner_id         text NOT NULL CHECK (owner_id <> ''),
  session_id       text,
  name             text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  model_name       text,
  scopes           text[],
  activity_schemas jsonb NOT NULL DEFAULT '{}'::jsonb CHECK (jsonb_typeof(activity_schemas) = 'object'),
  metadata         jsonb NOT NULL DEFAULT '{}'::jsonb,
  created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX agent_instances_owner ON secmon.agent_instances (owner_id, created_at DESC);

-- Which layer an instance is under, and its score as of the last evidence.
CREATE TABLE secmon.security_profiles (
  profile_id     text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  instance_id    text NOT NULL UNIQUE REFERENCES secmon.agent_instances ON DELETE CASCADE,
  layer_id       text NOT NULL REFERENCES secmon.security_layers,
  security_score numeric(5, 2) NOT NULL DEFAULT 75 CHECK (security_score BETWEEN 0 AND 100),
  status         text NOT NULL DEFAULT 'monitoring'
                 CHECK (status IN ('secure', 'monitoring', 'warning', 'compromised')),
  attached_at    timestamptz NOT NULL DEFAULT now(),
  updated_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX security_profiles_layer ON secmon.security_profiles (layer_id);

-- Everything an instance did or was asked, one row an act: the evidence the checks look at.
-- source tells the instance's own acts from the platform's. findings is what scanning the prompt
-- and the output found (NULL: not scanned yet); schema_error is why details break their schema
-- (NULL with schema_checked: they don't).
CREATE TABLE secmon.instance_activities (
  activity_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  instance_id    text NOT NULL REFERENCES secmon.agent_instances ON DELETE CASCADE,
  at             timestamptz NOT NULL DEFAULT clock_timestamp(),
  source         text NOT NULL DEFAULT 'instance' CHECK (source IN ('instance', 'platform')),
  action         text NOT NULL CHECK (length(action) BETWEEN 1 AND 200),
  details        jsonb NOT NULL DEFAULT '{}'::jsonb,
  prompt         text,
  output         text,
  auth_method    text CHECK (auth_method IN ('api_key', 'library', 'dagster')),
  key_id         text,
  auth_error     text,
  denied         boolean NOT NULL DEFAULT FALSE,
  throttled      boolean NOT NULL DEFAULT FALSE,
  schema_checked boolean NOT NULL DEFAULT FALSE,
  schema_error   text,
  findings       jsonb
);
-- Newest first for one instance: the profile, the log and every check read through this. By time
-- first: no other index has that order, so no plan walks through everyone's acts to find a few, and
-- what is older than the checks look at is not even touched.
CREATE INDEX instance_activities_newest
  ON secmon.instance_activities (instance_id, at DESC, activity_id DESC);
-- Prompts and outputs are rare among many acts, and the scans want just them.
CREATE INDEX instance_activities_texts
  ON secmon.instance_activities (instance_id, at DESC, activity_id DESC)
  WHERE prompt IS NOT NULL OR output IS NOT NULL;
-- Whether a refusal of the last minute is noted already.
CREATE INDEX instance_activities_throttled ON secmon.instance_activities (instance_id, at DESC)
  WHERE throttled;
-- Whether one key acts for several instances.
CREATE INDEX instance_activities_key ON secmon.instance_activities (key_id, at DESC)
  WHERE key_id IS NOT NULL;

-- One row a rule broken, whoever noticed it: a scan, the throttle, the executor. source_id is the
-- reporter's own name for it, so that one reported twice is one row. termination says whether the
-- layer wants the instance's runs ended, and whether that has been done.
CREATE TABLE secmon.security_violations (
  violation_id   text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  instance_id    text NOT NULL REFERENCES secmon.agent_instances ON DELETE CASCADE,
  violation_type text NOT NULL,
  check_type     text NOT NULL,
  severity       secmon.check_severity NOT NULL,
  description    text NOT NULL,
  details        jsonb NOT NULL DEFAULT '{}'::jsonb,
  run_id         text,
  source_id      text UNIQUE,
  termination    text NOT NULL DEFAULT 'none' CHECK (termination IN ('none', 'due', 'done')),
  ended_runs     text[] NOT NULL DEFAULT '{}',
  at             timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- What still has to be cancelled, for the sensor that does it.
CREATE INDEX security_violations_due ON secmon.security_violations (at) WHERE termination = 'due';
CREATE INDEX security_violations_newest ON secmon.security_violations (instance_id, at DESC);

-- Results of the six checks, kept for ever: the latest of each type makes the score.
CREATE TABLE secmon.security_checks (
  check_id    text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  instance_id text NOT NULL REFERENCES secmon.agent_instances ON DELETE CASCADE,
  check_type  text NOT NULL CHECK (check_type IN ('authentication', 'authorization',
                'data_validation', 'rate_limiting', 'input_sanitization', 'output_encoding')),
  status      text NOT NULL CHECK (status IN ('passed', 'failed', 'warning', 'monitoring')),
  severity    secmon.check_severity NOT NULL,
  description text NOT NULL,
  details     jsonb NOT NULL DEFAULT '{}'::jsonb,
  checked_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX security_checks_latest ON secmon.security_checks (instance_id, check_type, checked_at DESC);
CREATE INDEX security_checks_newest ON secmon.security_checks (instance_id, checked_at DESC, check_id);
CREATE INDEX security_checks_time ON secmon.security_checks (checked_at);

-- How the score moved, and why.
CREATE TABLE secmon.security_score_history (
  score_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  instance_id text NOT NULL REFERENCES secmon.agent_instances ON DELETE CASCADE,
  score       numeric(5, 2) NOT NULL,
  status      text NOT NULL,
  previous    text,
  cause       text NOT NULL,
  at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX security_score_history_newest ON secmon.security_score_history (instance_id, score_id DESC);

-- A workflow is a Dagster job with its run config.
CREATE TABLE secmon.agent_workflows (
  workflow_id   text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  owner_id      text NOT NULL CHECK (owner_id <> ''),
  name          text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  workflow_type text NOT NULL CHECK (workflow_type IN ('sequential', 'parallel')),
  configuration jsonb NOT NULL DEFAULT '{}'::jsonb CHECK (jsonb_typeof(configuration) = 'object'),
  job_name      text NOT NULL DEFAULT 'agent_workflow',
  run_config    jsonb NOT NULL DEFAULT '{}'::jsonb CHECK (jsonb_typeof(run_config) = 'object'),
  input_schema  jsonb CHECK (jsonb_typeof(input_schema) = 'object'),
  is_active     boolean NOT NULL DEFAULT TRUE,
  discovered    boolean NOT NULL DEFAULT FALSE,
  created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX agent_workflows_owner ON secmon.agent_workflows (owner_id, created_at DESC);
-- A job that runs without anyone having declared it is one workflow for each of its users.
CREATE UNIQUE INDEX agent_workflows_discovered ON secmon.agent_workflows (owner_id, job_name)
  WHERE discovered;

CREATE TABLE secmon.sub_workflows (
  subworkflow_id     text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  parent_workflow_id text NOT NULL REFERENCES secmon.agent_workflows ON DELETE CASCADE,
  child_workflow_id  text NOT NULL REFERENCES secmon.agent_workflows ON DELETE CASCADE,
  execution_order    integer NOT NULL CHECK (execution_order BETWEEN 0 AND 10000),
  condition          jsonb NOT NULL DEFAULT '{}'::jsonb CHECK (jsonb_typeof(condition) = 'object'),
  is_active          boolean NOT NULL DEFAULT TRUE,
  created_at         timestamptz NOT NULL DEFAULT now(),
  UNIQUE (parent_workflow_id, child_workflow_id, execution_order),
  CHECK (parent_workflow_id <> child_workflow_id)
);
CREATE INDEX sub_workflows_child ON secmon.sub_workflows (child_workflow_id);

-- One execution of a workflow with all that is under it.
CREATE TABLE secmon.workflow_executions (
  execution_id text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  owner_id     text NOT NULL CHECK (owner_id <> ''),
  -- Who asked for it, and so for its runs: not always whose workflow it is.
  requested_by text NOT NULL CHECK (requested_by <> ''),
  workflow_id  text NOT NULL REFERENCES secmon.agent_workflows ON DELETE CASCADE,
  instance_id  text REFERENCES secmon.agent_instances ON DELETE SET NULL,
  input_data   jsonb NOT NULL DEFAULT '{}'::jsonb,
  -- Who takes it from step to step: Dagster's daemon, or the process that asked for it.
  driver       text NOT NULL DEFAULT 'daemon' CHECK (driver IN ('daemon', 'caller')),
  status       text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'success', 'failed')),
  started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at     timestamptz
);
CREATE INDEX workflow_executions_open ON secmon.workflow_executions (started_at) WHERE status = 'running' AND driver = 'daemon';
CREATE INDEX workflow_executions_newest ON secmon.workflow_executions (workflow_id, started_at DESC);

-- The tree of one execution, written whole before anything starts, so that whoever picks it up
-- after a crash knows what was meant. A node is launched at most once: its run carries node_id.
CREATE TABLE secmon.workflow_nodes (
  node_id         text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  execution_id    text NOT NULL REFERENCES secmon.workflow_executions ON DELETE CASCADE,
  parent_node_id  text REFERENCES secmon.workflow_nodes ON DELETE CASCADE,
  subworkflow_id  text,
  workflow_id     text NOT NULL REFERENCES secmon.agent_workflows ON DELETE CASCADE,
  position        integer NOT NULL,
  workflow_type   text NOT NULL,
  job_name        text NOT NULL,
  run_config      jsonb NOT NULL,
  condition       jsonb NOT NULL,
  status          text NOT NULL DEFAULT 'pending'
                  CHECK (status IN ('pending', 'launched', 'success', 'failed', 'skipped')),
  reason          text,
  run_id          text UNIQUE,
  metrics         jsonb NOT NULL DEFAULT '{}'::jsonb,
  launched_at     timestamptz,
  ended_at        timestamptz
);
CREATE INDEX workflow_nodes_execution ON secmon.workflow_nodes (execution_id, position);

-- What repeated executions show. Sums are stored and averages derived, so that any number of
-- writers at once leaves exactly the average of what they wrote.
CREATE TABLE secmon.workflow_patterns (
  pattern_id        text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  workflow_id       text NOT NULL REFERENCES secmon.agent_workflows ON DELETE CASCADE,
  pattern_type      text NOT NULL
                    CHECK (pattern_type IN ('successful', 'failed', 'optimized', 'security_compliant')),
  execution_count   bigint NOT NULL CHECK (execution_count > 0),
  success_count     bigint NOT NULL,
  duration_total_ms numeric NOT NULL,
  score_total       numeric NOT NULL,
  score_count       bigint NOT NULL,
  success_rate      numeric GENERATED ALWAYS AS
                    (round(100.0 * success_count / execution_count, 2)) STORED,
  avg_duration_ms   numeric GENERATED ALWAYS AS
                    (round(duration_total_ms / execution_count, 3)) STORED,
  security_score    numeric GENERATED ALWAYS AS
                    (round(score_total / NULLIF(score_count, 0), 2)) STORED,
  first_seen_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_seen_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  emerged_at        timestamptz,
  UNIQUE (workflow_id, pattern_type)
);
CREATE INDEX workflow_patterns_best ON secmon.workflow_patterns (pattern_type, success_rate DESC, execution_count DESC);

-- Runs whose pattern was counted; a sensor that looks twice must not count twice.
CREATE TABLE secmon.tracked_runs (
  run_id     text PRIMARY KEY,
  tracked_at timestamptz NOT NULL DEFAULT now()
);

-- A run under a layer with require_approval waits in the queue for a second person.
CREATE TABLE secmon.run_approvals (
  run_id       text PRIMARY KEY,
  instance_id  text NOT NULL REFERENCES secmon.agent_instances ON DELETE CASCADE,
  job_name     text NOT NULL,
  requested_by text NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  state        text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'approved', 'denied')),
  decided_by   text,
  decided_at   timestamptz,
  reason       text,
  -- When the decision reached the run in Dagster's queue.
  applied_at   timestamptz,
  -- Two persons, whatever the code above this table believes.
  CHECK (decided_by IS NULL OR decided_by <> requested_by),
  CHECK ((state = 'pending') = (decided_by IS NULL))
);
CREATE INDEX run_approvals_pending ON secmon.run_approvals (requested_at) WHERE state = 'pending';

-- API keys: only a digest of the secret half is kept. instance_id binds a key to one agent.
CREATE TABLE secmon.api_keys (
  key_id       text PRIMARY KEY,
  name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
  user_id      text NOT NULL CHECK (user_id <> ''),
  role         text NOT NULL CHECK (role IN ('viewer', 'operator', 'approver', 'admin')),
  secret_hash  bytea NOT NULL CHECK (length(secret_hash) = 32),
  instance_id  text REFERENCES secmon.agent_instances ON DELETE CASCADE,
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL,
  revoked_at   timestamptz,
  last_used_at timestamptz
);
CREATE INDEX api_keys_user ON secmon.api_keys (user_id);

-- The hits of the last minute for each bucket (a key, an instance), oldest first. Unlogged: after a
-- crash of the server the counts start anew, and no hit waits for a disk.
CREATE UNLOGGED TABLE secmon.rate_limit_windows (
  bucket text PRIMARY KEY,
  hits   timestamptz[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
-- Compressing a few kilobytes of timestamps at each hit costs more than it saves.
ALTER TABLE secmon.rate_limit_windows ALTER COLUMN hits SET STORAGE EXTERNAL;

-- Answers already given to writes with an Idempotency-Key, to be given again.
CREATE TABLE secmon.idempotency_keys (
  user_id      text NOT NULL,
  key          text NOT NULL CHECK (length(key) BETWEEN 1 AND 200),
  request_hash bytea NOT NULL,
  status       smallint,
  headers      jsonb,
  body         bytea,
  created_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_age ON secmon.idempotency_keys (created_at);

-- Count one hit in a sliding minute, exactly, for all workers at once: the row lock makes callers
-- take turns, and the clock is read after the lock. A refused hit is not counted.
CREATE FUNCTION secmon.rate_limit_hit(
  this_bucket text, per_minute integer,
  OUT allowed boolean, OUT remaining integer, OUT reset_seconds double precision
)
LANGUAGE plpgsql AS $$
DECLARE
  recent timestamptz[];
  at     timestamptz;
  taken  integer;
BEGIN
  SELECT w.hits INTO recent FROM secmon.rate_limit_windows w WHERE w.bucket = this_bucket FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO secmon.rate_limit_windows (bucket) VALUES (this_bucket) ON CONFLICT DO NOTHING;
    SELECT w.hits INTO recent FROM secmon.rate_limit_windows w WHERE w.bucket = this_bucket FOR UPDATE;
  END IF;
  at := clock_timestamp();
  IF cardinality(recent) > 0 THEN
    -- Sorted, so the outdated ones are a prefix, found by bisection.
    recent := recent[width_bucket(at - interval '1 minute', recent) + 1 :];
  END IF;
  taken := cardinality(recent);
  allowed := taken < per_minute;
  IF allowed THEN
    UPDATE secmon.rate_limit_windows w SET hits = recent || at WHERE w.bucket = this_bucket;
    taken := taken + 1;
  END IF;
  remaining := greatest(per_minute - taken, 0);
  -- When the hit that has to leave first leaves: the oldest, or with a lowered limit a later one.
  reset_seconds := CASE WHEN taken = 0 OR per_minute = 0 THEN 60
    WHEN allowed AND cardinality(recent) = 0 THEN 60
    ELSE extract(epoch FROM recent[greatest(taken - per_minute, 0) + 1] + interval '1 minute' - at) END;
END
$$;

-- Who calls, whether they may, and one hit on their budget, in a single round trip. The digest is
-- compared here; a caller learns nothing but the verdict. state: ok, unknown, expired, revoked. A key
-- bound to an instance shares the budget of that instance's layer with its other keys; a passive
-- layer only observes.
CREATE FUNCTION secmon.api_admit(
  this_key text, digest bytea, per_minute integer,
  OUT state text, OUT user_id text, OUT role text, OUT instance_id text,
  OUT quota integer, OUT allowed boolean, OUT remaining integer, OUT reset_seconds double precision
)
LANGUAGE plpgsql AS $$
DECLARE
  found_key secmon.api_keys;
  bucket    text := 'key:' || this_key;
BEGIN
  SELECT * INTO found_key FROM secmon.api_keys k WHERE k.key_id = this_key AND k.secret_hash = digest;
  IF NOT FOUND THEN
    state := 'unknown';
    RETURN;
  END IF;
  user_id := found_key.user_id;
  role := found_key.role;
  instance_id := found_key.instance_id;
  state := CASE WHEN found_key.revoked_at IS NOT NULL THEN 'revoked'
                WHEN found_key.expires_at <= clock_timestamp() THEN 'expired'
                ELSE 'ok' END;
  IF state <> 'ok' THEN
    RETURN;
  END IF;
  quota := per_minute;
  IF found_key.instance_id IS NOT NULL THEN
    bucket := 'calls:' || found_key.instance_id;
    quota := coalesce((
      SELECT least(per_minute, (l.config ->> 'max_requests_per_minute')::integer)
        FROM secmon.security_profiles p JOIN secmon.security_layers l USING (layer_id)
       WHERE p.instance_id = found_key.instance_id AND l.monitoring_mode <> 'passive'), per_minute);
  END IF;
  SELECT r.allowed, r.remaining, r.reset_seconds INTO allowed, remaining, reset_seconds
    FROM secmon.rate_limit_hit(bucket, quota) r;
  -- Once a minute is enough to see which keys are in use.
  IF found_key.last_used_at IS NULL OR found_key.last_used_at < clock_timestamp() - interval '1 minute' THEN
    UPDATE secmon.api_keys k SET last_used_at = clock_timestamp() WHERE k.key_id = this_key;
  END IF;
END
$$;
REVOKE ALL ON FUNCTION secmon.rate_limit_hit(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION secmon.api_admit(text, bytea, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secmon.rate_limit_hit(text, integer) TO secmon_service;
GRANT EXECUTE ON FUNCTION secmon.api_admit(text, bytea, integer) TO secmon_service;

-- Row-level security. The reader sees the rows of the user it speaks for and nothing without one;
-- the service sees everything until it speaks for a user, then only what that user may see.
CREATE FUNCTION secmon.sees_every_row() RETURNS boolean
LANGUAGE sql STABLE AS $$
  SELECT current_user <> 'secmon_reader' AND secmon.current_user_id() IS NULL
$$;
-- The one instance there is for an agent's own key; NULL for everyone else.
CREATE FUNCTION secmon.current_instance_id() RETURNS text
LANGUAGE sql STABLE AS $$ SELECT NULLIF(current_setting('secmon.instance_id', true), '') $$;
-- In a policy (SELECT f()) is computed once a query, f() once a row: hundreds of rows a check.

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['agent_instances', 'agent_workflows', 'workflow_executions'] LOOP
    EXECUTE format('ALTER TABLE secmon.%I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE secmon.%I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY own_rows ON secmon.%I USING ((SELECT secmon.sees_every_row()) '
      'OR owner_id = (SELECT secmon.current_user_id()))', name);
  END LOOP;
  FOREACH name IN ARRAY ARRAY['agent_instances', 'workflow_executions'] LOOP
    EXECUTE format('CREATE POLICY own_instance ON secmon.%I AS RESTRICTIVE USING ('
      '(SELECT secmon.current_instance_id()) IS NULL '
      'OR instance_id = (SELECT secmon.current_instance_id()))', name);
  END LOOP;
  -- What hangs on an instance is seen with the instance: the subquery is under its policy.
  FOREACH name IN ARRAY ARRAY['security_profiles', 'instance_activities', 'security_violations',
                              'security_checks', 'security_score_history', 'run_approvals'] LOOP
    EXECUTE format('ALTER TABLE secmon.%I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE secmon.%I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY own_rows ON secmon.%1$I USING ((SELECT secmon.sees_every_row()) OR '
      'EXISTS (SELECT FROM '
      'secmon.agent_instances i WHERE i.instance_id = %1$I.instance_id))', name);
  END LOOP;
  FOREACH name IN ARRAY ARRAY['workflow_patterns'] LOOP
    EXECUTE format('ALTER TABLE secmon.%I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE secmon.%I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY own_rows ON secmon.%1$I USING ((SELECT secmon.sees_every_row()) OR '
      'EXISTS (SELECT FROM '
      'secmon.agent_workflows w WHERE w.workflow_id = %1$I.workflow_id))', name);
  END LOOP;
END
$$;
ALTER TABLE secmon.sub_workflows ENABLE ROW LEVEL SECURITY;
ALTER TABLE secmon.sub_workflows FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON secmon.sub_workflows USING ((SELECT secmon.sees_every_row()) OR EXISTS (
  SELECT FROM secmon.agent_workflows w WHERE w.workflow_id = sub_workflows.parent_workflow_id));
ALTER TABLE secmon.workflow_nodes ENABLE ROW LEVEL SECURITY;
ALTER TABLE secmon.workflow_nodes FORCE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON secmon.workflow_nodes USING ((SELECT secmon.sees_every_row()) OR EXISTS (
  SELECT FROM secmon.workflow_executions e WHERE e.execution_id = workflow_nodes.execution_id));

-- The profile as it is read: with the newest hundred prompts and acts. security_invoker, or the
-- view would read with its owner's rights and show every tenant's rows.
CREATE VIEW secmon.instance_security_profiles WITH (security_invoker = true) AS
SELECT p.profile_id, p.instance_id, p.layer_id,
  (SELECT coalesce(jsonb_agg(jsonb_build_object('prompt', a.prompt, 'timestamp', a.at)
                             ORDER BY a.at, a.activity_id), '[]'::jsonb)
     FROM (SELECT prompt, at, activity_id FROM secmon.instance_activities
            WHERE instance_id = p.instance_id AND prompt IS NOT NULL
              AND (prompt IS NOT NULL OR output IS NOT NULL)
            ORDER BY at DESC, activity_id DESC LIMIT 100) a) AS prompt_history,
  (SELECT coalesce(jsonb_agg(jsonb_build_object('action', a.action, 'timestamp', a.at,
                                                'details', a.details)
                             ORDER BY a.at, a.activity_id), '[]'::jsonb)
     FROM (SELECT action, at, details, activity_id FROM secmon.instance_activities
            WHERE instance_id = p.instance_id
            ORDER BY at DESC, activity_id DESC LIMIT 100) a) AS activity_log,
  p.security_score, p.status, p.attached_at, p.updated_at
FROM secmon.security_profiles p;

GRANT SELECT ON secmon.security_layers, secmon.agent_instances, secmon.security_profiles,
  secmon.instance_security_profiles, secmon.instance_activities, secmon.security_violations,
  secmon.security_checks, secmon.security_score_history, secmon.agent_workflows,
  secmon.sub_workflows, secmon.workflow_executions, secmon.workflow_nodes,
  secmon.workflow_patterns, secmon.run_approvals
  TO secmon_reader, secmon_service;
GRANT INSERT, UPDATE ON secmon.security_layers, secmon.agent_instances, secmon.security_profiles,
  secmon.instance_activities, secmon.security_violations, secmon.security_checks,
  secmon.security_score_history, secmon.agent_workflows, secmon.sub_workflows,
  secmon.workflow_executions, secmon.workflow_nodes, secmon.workflow_patterns,
  secmon.run_approvals
  TO secmon_service;
-- Keys, budgets and stored answers are nobody's rows: only the service touches them.
GRANT SELECT, INSERT, UPDATE, DELETE ON secmon.api_keys, secmon.rate_limit_windows,
  secmon.idempotency_keys, secmon.tracked_runs TO secmon_service;
