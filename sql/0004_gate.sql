-- The gate: what each check said, how the gate is configured, and who approved what.

-- One row a check, written in the same transaction as its audit entry. A check of several scripts
-- is one row: script_name joins their names with '+', action_taken is the worst of them.
CREATE TABLE IF NOT EXISTS secmon.monitoring_history (
  id                    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  check_id              text NOT NULL UNIQUE,
  artifact_id           text NOT NULL,
  script_name           text NOT NULL,
  exit_code             integer NOT NULL,
  action_taken          text NOT NULL
    CHECK (action_taken IN ('allowed', 'warned', 'blocked', 'error')),
  recommendation        text,
  findings              jsonb NOT NULL DEFAULT '[]'::jsonb,
  stdout                text NOT NULL DEFAULT '',
  stderr                text NOT NULL DEFAULT '',
  execution_duration_ms double precision NOT NULL CHECK (execution_duration_ms >= 0),
  executed_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  user_id               text,
  run_id                text,
  sha256                text CHECK (sha256 ~ '^[0-9a-f]{64}$'),
  script_digest         text NOT NULL,
  policy_digest         text NOT NULL,
  isolation             text NOT NULL,
  -- The check whose verdict was reused, where this one didn't run the script.
  cached_from           text,
  -- Id of the audit entry that holds the same verdict.
  entry_id              text
);

-- The release looks up the newest verdict on these bytes under this policy.
CREATE INDEX IF NOT EXISTS monitoring_history_verdict
  ON secmon.monitoring_history (artifact_id, sha256, policy_digest, id DESC);
-- History of one artifact, newest first; clean-up and the recent-events query by time.
CREATE INDEX IF NOT EXISTS monitoring_history_artifact
  ON secmon.monitoring_history (artifact_id, executed_at DESC);
CREATE INDEX IF NOT EXISTS monitoring_history_time ON secmon.monitoring_history (executed_at);
CREATE INDEX IF NOT EXISTS monitoring_history_user
  ON secmon.monitoring_history (user_id) WHERE user_id IS NOT NULL;
-- The sensor on blocked artifacts reads on from the last id it has seen.
CREATE INDEX IF NOT EXISTS monitoring_history_blocked
  ON secmon.monitoring_history (id) WHERE action_taken IN ('blocked', 'error');

-- Settings that win over the environment. Values are text, as in the documented UPDATE statements.
CREATE TABLE IF NOT EXISTS secmon.monitoring_config (
  key         text PRIMARY KEY,
  value       text NOT NULL,
  description text NOT NULL DEFAULT '',
  updated_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO secmon.monitoring_config (key, value, description) VALUES
  ('script_timeout_ms', '', 'Milliseconds a script may run; empty: MONITORING_TIMEOUT'),
  ('max_output_length', '', 'Characters of output kept; empty: MONITORING_MAX_OUTPUT'),
  ('scripts_by_type', '{}', 'JSON object: artifact type to a list of scripts'),
  ('allow', '[]', 'JSON list of imports (package.module.Name) an operator vetted'),
  ('unknown_classes', 'warn', 'warn or block classes of packages nobody vetted'),
  ('script_config', '{}', 'JSON object scripts get as --config: public_keys and signatures, say'),
  ('history_retention_days', '90', 'Days a row of monitoring_history is kept before archiving')
ON CONFLICT (key) DO NOTHING;

-- History is written once. Rows leave it only after the retention, by the clean-up.
CREATE OR REPLACE FUNCTION secmon.monitoring_history_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = secmon, pg_temp
AS $$
DECLARE
  days integer := COALESCE(
    (SELECT NULLIF(value, '')::integer FROM secmon.monitoring_config
      WHERE key = 'history_retention_days'), 90);
BEGIN
  IF TG_OP = 'DELETE' AND OLD.executed_at < now() - make_interval(days => GREATEST(days, 1)) THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION 'monitoring_history is append-only: % of row % is refused', TG_OP, OLD.id
    USING HINT = format('rows older than %s days may be deleted', days);
END
$$;
CREATE OR REPLACE TRIGGER monitoring_history_is_append_only
  BEFORE UPDATE OR DELETE ON secmon.monitoring_history
  FOR EACH ROW EXECUTE FUNCTION secmon.monitoring_history_guard();

-- A second person's word on bytes under a policy. Bound to sha256, not to the artifact's name.
CREATE TABLE IF NOT EXISTS secmon.approvals (
  id              text PRIMARY KEY DEFAULT gen_random_uuid()::text,
  artifact_id     text NOT NULL REFERENCES secmon.artifacts (id),
  sha256          text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
  policy_digest   text NOT NULL,
  requester       text NOT NULL CHECK (requester <> ''),
  state           text NOT NULL DEFAULT 'pending'
    CHECK (state IN ('pending', 'approved', 'denied', 'expired', 'revoked')),
  reason          text NOT NULL DEFAULT '',
  idempotency_key text UNIQUE,
  requested_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  expires_at      timestamptz NOT NULL,
  decided_by      text,
  decided_at      timestamptz,
  -- Grows with each change; the ETag of an approval.
  version         integer NOT NULL DEFAULT 1,
  -- The two-person rule.
  CONSTRAINT approver_is_not_requester CHECK (decided_by IS NULL
    OR state IN ('revoked', 'denied') OR decided_by <> requester),
  CONSTRAINT decision_has_a_decider CHECK (state IN ('pending', 'expired') OR decided_by IS NOT NULL)
);
-- One open request a person, bytes and policy.
CREATE UNIQUE INDEX IF NOT EXISTS approvals_open
  ON secmon.approvals (artifact_id, sha256, policy_digest, requester)
  WHERE state IN ('pending', 'approved');

-- A login and an API key may spell one person's name differently.
CREATE OR REPLACE FUNCTION secmon.folded_name(name text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $$ SELECT lower(btrim(normalize(name, NFKC))) $$;

-- pending ▸ approved | denied | expired | revoked, approved ▸ expired | revoked; nothing else, and
-- nothing but the decision changes. The uploader doesn't approve an upload of his own either.
CREATE OR REPLACE FUNCTION secmon.approvals_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = secmon, pg_temp
AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF NEW.state <> 'pending' OR NEW.decided_by IS NOT NULL OR NEW.version <> 1 THEN
      RAISE EXCEPTION 'an approval begins as pending and undecided'
        USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
  END IF;
  IF (OLD.artifact_id, OLD.sha256, OLD.policy_digest, OLD.requester, OLD.requested_at,
      OLD.idempotency_key)
     IS DISTINCT FROM
     (NEW.artifact_id, NEW.sha256, NEW.policy_digest, NEW.requester, NEW.requested_at,
      NEW.idempotency_key)
     OR NEW.expires_at > OLD.expires_at THEN
    RAISE EXCEPTION 'an approval is bound to its artifact, bytes, policy and requester'
      USING ERRCODE = 'check_violation';
  END IF;
  IF NOT ((OLD.state = 'pending' AND NEW.state IN ('approved', 'denied', 'expired', 'revoked'))
       OR (OLD.state = 'approved' AND NEW.state IN ('expired', 'revoked'))) THEN
    RAISE EXCEPTION 'an approval that is % can''t become %', OLD.state, NEW.state
      USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.state = 'approved' AND OLD.expires_at <= clock_timestamp() THEN
    RAISE EXCEPTION 'the request for approval has expired' USING ERRCODE = 'check_violation';
  END IF;
  IF NEW.state = 'approved' AND secmon.folded_name(NEW.decided_by) IN (
       SELECT secmon.folded_name(uploaded_by) FROM secmon.artifacts WHERE id = NEW.artifact_id
       UNION SELECT secmon.folded_name(NEW.requester)) THEN
    RAISE EXCEPTION 'neither requester nor uploader can approve, under any spelling'
      USING ERRCODE = 'check_violation', CONSTRAINT = 'approver_is_not_requester';
  END IF;
  NEW.version := OLD.version + 1;
  NEW.decided_at := clock_timestamp();
  RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER approvals_follow_the_state_machine
  BEFORE INSERT OR UPDATE ON secmon.approvals
  FOR EACH ROW EXECUTE FUNCTION secmon.approvals_guard();

-- New bytes void what was approved for the old ones.
CREATE OR REPLACE FUNCTION secmon.artifacts_void_approvals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = secmon, pg_temp
AS $$
BEGIN
  UPDATE secmon.approvals SET state = 'revoked', decided_by = 'new-bytes'
   WHERE artifact_id = NEW.id AND state IN ('pending', 'approved')
     AND sha256 IS DISTINCT FROM NEW.sha256;
  RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER new_bytes_void_approvals
  AFTER UPDATE OF sha256 ON secmon.artifacts
  FOR EACH ROW WHEN (OLD.sha256 IS DISTINCT FROM NEW.sha256)
  EXECUTE FUNCTION secmon.artifacts_void_approvals();

GRANT SELECT, INSERT, DELETE ON secmon.monitoring_history TO secmon_service;
GRANT SELECT, INSERT, UPDATE ON secmon.monitoring_config, secmon.approvals TO secmon_service;
