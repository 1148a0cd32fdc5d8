-- The schema, the roles that share it, and what Dagster's own tables look like from inside it.
-- Runs as the URL's own user; every later file runs as secmon_owner.

-- Roles belong to the server, not to the database: another database may have made them already.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'secmon_owner') THEN
    -- Owns every object and can't log in, so that no connection string leads to DDL.
    CREATE ROLE secmon_owner NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'secmon_writer') THEN
    -- May append to the audit chain through its one function, nothing else.
    CREATE ROLE secmon_writer LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'secmon_reader') THEN
    -- Reads through row-level security: own rows and rows of own runs.
    CREATE ROLE secmon_reader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'secmon_service') THEN
    -- The platform itself: all rows.
    CREATE ROLE secmon_service LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
  END IF;
END
$$;

-- Every query of the documentation names tables without a schema.
ALTER ROLE secmon_writer SET search_path = secmon, public;
ALTER ROLE secmon_reader SET search_path = secmon, public;
ALTER ROLE secmon_service SET search_path = secmon, public;

-- A migrating user that is no superuser must be able to act as these roles.
GRANT secmon_owner, secmon_writer, secmon_reader, secmon_service TO CURRENT_USER;

-- Made before this file by the migration runner, for its version table.
ALTER SCHEMA secmon OWNER TO secmon_owner;
GRANT USAGE ON SCHEMA secmon TO secmon_writer, secmon_reader, secmon_service;

-- Dagster makes its tables when an instance first opens, which may be after this migration: so the
-- table is looked for when asked, not when defined. It belongs to the migrating user, who is also
-- Dagster's, because secmon_owner has no right to Dagster's tables.
CREATE OR REPLACE FUNCTION secmon.dagster_runs(only_run_id text DEFAULT NULL)
RETURNS TABLE (
  id text, name text, status text, user_id text,
  started_at timestamptz, ended_at timestamptz, created_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp
AS $$
BEGIN
  IF to_regclass('public.runs') IS NULL OR to_regclass('public.run_tags') IS NULL THEN
    RETURN;
  END IF;
  RETURN QUERY EXECUTE
    'SELECT r.run_id::text, r.pipeline_name::text, r.status::text, t.value::text,
            to_timestamp(r.start_time), to_timestamp(r.end_time),
            r.create_timestamp AT TIME ZONE ''UTC''
       FROM public.runs r
       LEFT JOIN public.run_tags t ON t.run_id = r.run_id AND t.key = ''secmon/user''
      WHERE $1 IS NULL OR r.run_id = $1'
    USING only_run_id;
END
$$;
REVOKE ALL ON FUNCTION secmon.dagster_runs(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secmon.dagster_runs(text) TO secmon_owner, secmon_service;

-- Dagster's runs with the user who launched them.
CREATE OR REPLACE VIEW secmon.dag_executions AS SELECT * FROM secmon.dagster_runs(NULL);
ALTER VIEW secmon.dag_executions OWNER TO secmon_owner;
GRANT SELECT ON secmon.dag_executions TO secmon_service;

-- Who asks, as row-level security sees it. After COMMIT a transaction-local setting reads as an
-- empty string, not as NULL.
CREATE OR REPLACE FUNCTION secmon.current_user_id() RETURNS text
LANGUAGE sql STABLE
AS $$ SELECT NULLIF(current_setting('secmon.user_id', true), '') $$;
ALTER FUNCTION secmon.current_user_id() OWNER TO secmon_owner;

-- Whether a run was launched by the one who asks; used by policies, so it must not scan all runs.
CREATE OR REPLACE FUNCTION secmon.is_own_run(run_id text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = secmon, pg_temp
AS $$
  SELECT EXISTS (
    SELECT FROM secmon.dagster_runs(run_id) r WHERE r.user_id = secmon.current_user_id()
  )
$$;
GRANT EXECUTE ON FUNCTION secmon.is_own_run(text) TO PUBLIC;
