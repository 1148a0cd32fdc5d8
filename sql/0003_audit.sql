-- The audit chain: entries, the head that serialises appends, the one function that appends, the
-- outbox for acts inside business transactions, checkpoints, and what guards them all.
-- docs/threat-model.md says who is stopped by which of these, and who is only noticed.

-- One row an entry, numbered 1, 2, 3 … without gaps. Column order is the order in which a verifier
-- reads them: what the database fixed, then what the caller said, then the hash over both.
-- `data` and `details` are text, not jsonb, because their very bytes are hashed.
-- Partitioned by seq: PostgreSQL wants the partition key in every unique constraint, and by time
-- the primary key on seq, which is what makes a fork impossible, could not be had.
CREATE TABLE IF NOT EXISTS secmon.audit_entries (
  seq            bigint      NOT NULL PRIMARY KEY CHECK (seq > 0),
  previous_hash  bytea       NOT NULL CHECK (octet_length(previous_hash) = 32),
  "timestamp"    timestamptz NOT NULL,
  db_user        text        NOT NULL,
  entry_id       text        COLLATE "C" NOT NULL CHECK (entry_id <> ''),
  level          text        COLLATE "C" NOT NULL
                             CHECK (level IN ('info', 'warn', 'error', 'critical')),
  event_type     text        COLLATE "C" CHECK (event_type <> ''),
  action         text        COLLATE "C" NOT NULL CHECK (action <> ''),
  actor          text        COLLATE "C" NOT NULL CHECK (actor <> ''),
  resource_type  text        COLLATE "C" NOT NULL CHECK (resource_type <> ''),
  resource_id    text        COLLATE "C",
  execution_id   text        COLLATE "C",
  job_id         text        COLLATE "C",
  data           text        CHECK (data IS NULL OR data::jsonb IS NOT NULL),
  data_hash      text        COLLATE "C",
  details        text        CHECK (details IS NULL OR details::jsonb IS NOT NULL),
  entry_hash     bytea       NOT NULL CHECK (octet_length(entry_hash) = 32)
) PARTITION BY RANGE (seq);

-- The append function looks every batch's entry ids up: a retried append must not double an entry.
CREATE INDEX IF NOT EXISTS audit_entries_entry_id ON secmon.audit_entries (entry_id);
-- The trails, each paged by seq.
CREATE INDEX IF NOT EXISTS audit_entries_actor ON secmon.audit_entries (actor, seq);
CREATE INDEX IF NOT EXISTS audit_entries_action ON secmon.audit_entries (action, seq);
CREATE INDEX IF NOT EXISTS audit_entries_resource
  ON secmon.audit_entries (resource_type, resource_id, seq);
CREATE INDEX IF NOT EXISTS audit_entries_job ON secmon.audit_entries (job_id, seq)
  WHERE job_id IS NOT NULL;
-- The indexes of dag_audit_logs. Nearly all entries are `info`, and nobody searches for those.
CREATE INDEX IF NOT EXISTS audit_entries_timestamp ON secmon.audit_entries ("timestamp");
CREATE INDEX IF NOT EXISTS audit_entries_event_type
  ON secmon.audit_entries ((COALESCE(event_type, action)), seq);
CREATE INDEX IF NOT EXISTS audit_entries_level ON secmon.audit_entries (level, "timestamp")
  WHERE level <> 'info';
CREATE INDEX IF NOT EXISTS audit_entries_execution
  ON secmon.audit_entries (execution_id, level, "timestamp") WHERE execution_id IS NOT NULL;

-- The end of the chain. Its row lock serialises appends; an advisory lock would do so as well, but
-- any role could take one and stop the log.
CREATE TABLE IF NOT EXISTS secmon.audit_head (
  id                boolean     NOT NULL PRIMARY KEY DEFAULT TRUE CHECK (id),
  seq               bigint      NOT NULL DEFAULT 0,
  entry_hash        bytea       NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
  "timestamp"       timestamptz NOT NULL DEFAULT '-infinity',
  incarnation       integer     NOT NULL DEFAULT 1,
  partition_entries bigint      NOT NULL DEFAULT 1000000 CHECK (partition_entries > 0),
  partitioned_to    bigint      NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO secmon.audit_head DEFAULT VALUES ON CONFLICT DO NOTHING;

-- Entries written inside a business transaction: there is one exactly if that transaction
-- committed. The same constraints as above, and the library's bounds, without which a row might not
-- fit into an index of the chain: so that nothing here can stop the sequencer. An entry id may come
-- twice: the sequencer sees whether it says the same, and keeps what says something else.
CREATE TABLE IF NOT EXISTS secmon.audit_outbox (
  id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  enqueued_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  entry_id       text COLLATE "C" NOT NULL CHECK (entry_id <> ''),
  level          text NOT NULL CHECK (level IN ('info', 'warn', 'error', 'critical')),
  event_type     text CHECK (event_type <> ''),
  -- Actions of the log itself (rollback, archive, …) change how the log is read.
  action         text NOT NULL CHECK (action <> '' AND NOT starts_with(action, 'log.')),
  actor          text NOT NULL CHECK (actor <> ''),
  resource_type  text NOT NULL CHECK (resource_type <> ''),
  resource_id    text,
  execution_id   text,
  job_id         text,
  data           text CHECK (data IS NULL OR data::jsonb IS NOT NULL),
  details        text CHECK (details IS NULL OR details::jsonb IS NOT NULL),
  CHECK (GREATEST(octet_length(entry_id), octet_length(event_type), octet_length(action),
                  octet_length(actor), octet_length(resource_type), octet_length(resource_id),
                  octet_length(execution_id), octet_length(job_id)) <= 1024),
  CHECK (GREATEST(octet_length(data), octet_length(details)) <= 67108864)
);
-- The gate looks a verdict's entry up before it is in the chain.
CREATE INDEX IF NOT EXISTS audit_outbox_entry_id ON secmon.audit_outbox (entry_id);

-- Signed checkpoints, a copy for convenience: what counts is the copy a witness holds.
-- `peaks` are the hashes of the perfect subtrees of the tree of that size, left to right.
CREATE TABLE IF NOT EXISTS secmon.audit_checkpoints (
  origin      text        NOT NULL,
  size        bigint      NOT NULL CHECK (size >= 0),
  root        bytea       NOT NULL CHECK (octet_length(root) = 32),
  peaks       bytea       NOT NULL CHECK (octet_length(peaks) % 32 = 0),
  last_hash   bytea       NOT NULL CHECK (octet_length(last_hash) = 32),
  note        text        NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (origin, size)
);
CREATE INDEX IF NOT EXISTS audit_checkpoints_created ON secmon.audit_checkpoints (created_at);

-- Whole partitions that were moved to files, and the entry hashes that stay here so that roots and
-- proofs can be computed for ever: 32 bytes an entry, at most 4096 entries a row.
-- A restored partition may be archived again, into another file: the last row counts.
-- `announcements` are the entries of the range that announce an incarnation or a rollback, as COPY
-- writes them: without them the checkpoints from before a restore could not be judged, and entries
-- that came back alone would no longer be superseded. Each has its leaf.
CREATE TABLE IF NOT EXISTS secmon.audit_archives (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  first_seq     bigint      NOT NULL,
  last_seq      bigint      NOT NULL CHECK (last_seq >= first_seq),
  manifest_id   text        NOT NULL,
  file          text        NOT NULL,
  file_sha256   text        NOT NULL,
  announcements bytea[]     NOT NULL DEFAULT '{}',
  archived_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS secmon.audit_leaves (
  first_seq     bigint NOT NULL PRIMARY KEY,
  last_seq      bigint NOT NULL CHECK (last_seq - first_seq BETWEEN 0 AND 4095),
  entry_hashes  bytea  NOT NULL CHECK (octet_length(entry_hashes) = 32 * (last_seq - first_seq + 1))
);
-- Hashes don't compress.
ALTER TABLE secmon.audit_leaves ALTER COLUMN entry_hashes SET STORAGE EXTERNAL;

-- What was found by a verification, for the sensor, the metrics and the asset.
CREATE TABLE IF NOT EXISTS secmon.audit_verifications (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  verified_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  verdict       text        NOT NULL CHECK (verdict IN ('valid', 'tampered', 'unknown')),
  total_entries bigint      NOT NULL,
  duration_ms   double precision NOT NULL,
  result        jsonb       NOT NULL
);

-- ---------------------------------------------------------------------------------------------
-- The hashes

-- SHA-256 over the domain tag `secmon-audit/v1` NUL and the fields as COPY BINARY writes them:
-- int32 length (-1 for NULL) and bytes. array_send writes elements the same way after 20 bytes of
-- header, in one call in C instead of a dozen concatenations.
-- Marked STABLE as array_send is, else it would not be inlined.
CREATE OR REPLACE FUNCTION secmon.audit_content_hash(fields text[]) RETURNS bytea
LANGUAGE sql STABLE
AS $$
  SELECT sha256('\x7365636d6f6e2d61756469742f763100'::bytea || substr(array_send(fields), 21))
$$;

-- SHA-256 over 0x01, the fields seq, previous_hash and timestamp as COPY BINARY writes them, and
-- the content hash.
CREATE OR REPLACE FUNCTION secmon.audit_entry_hash(
  seq bigint, previous_hash bytea, "timestamp" timestamptz, content_hash bytea
) RETURNS bytea
LANGUAGE sql IMMUTABLE
AS $$
  SELECT sha256('\x0100000008'::bytea || int8send(seq) || '\x00000020'::bytea || previous_hash
                || '\x00000008'::bytea || timestamptz_send("timestamp") || content_hash)
$$;

-- The hash an entry should have; for a look with psql, and to test that all encoders agree.
CREATE OR REPLACE FUNCTION secmon.audit_expected_hash(e secmon.audit_entries) RETURNS bytea
LANGUAGE sql STABLE
AS $$
  SELECT secmon.audit_entry_hash(e.seq, e.previous_hash, e."timestamp", secmon.audit_content_hash(
    ARRAY[e.db_user, e.entry_id, e.level, e.event_type, e.action, e.actor, e.resource_type,
          e.resource_id, e.execution_id, e.job_id, e.data, e.data_hash, e.details]))
$$;

-- ---------------------------------------------------------------------------------------------
-- Guards against change. ENABLE ALWAYS: they fire under session_replication_role = replica too.

CREATE OR REPLACE FUNCTION secmon.audit_refuse_change() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
  RAISE EXCEPTION '% on % is refused: the audit log is append-only', TG_OP, TG_TABLE_NAME
    USING ERRCODE = 'insufficient_privilege';
END
$$;

DO $$
DECLARE guarded text;
BEGIN
  FOREACH guarded IN ARRAY ARRAY[
    'audit_entries', 'audit_checkpoints', 'audit_archives', 'audit_leaves', 'audit_verifications'
  ] LOOP
    EXECUTE format('CREATE OR REPLACE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON secmon.%I
                    FOR EACH ROW EXECUTE FUNCTION secmon.audit_refuse_change()', guarded);
    EXECUTE format('ALTER TABLE secmon.%I ENABLE ALWAYS TRIGGER audit_no_change', guarded);
    EXECUTE format('CREATE OR REPLACE TRIGGER audit_no_truncate BEFORE TRUNCATE ON secmon.%I
                    FOR EACH STATEMENT EXECUTE FUNCTION secmon.audit_refuse_change()', guarded);
    EXECUTE format('ALTER TABLE secmon.%I ENABLE ALWAYS TRIGGER audit_no_truncate', guarded);
  END LOOP;
END
$$;

-- As the migrating user: a superuser's function passes the event triggers below, which stop the
-- owner from altering the table, and attaching a partition is altering it.
RESET ROLE;

-- Makes the partition after the last one. ATTACH instead of PARTITION OF: it takes a lock that
-- lets readers go on, and a backup may read for hours. Called under the head's lock.
CREATE OR REPLACE FUNCTION secmon.audit_grow() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = secmon, pg_temp
AS $$
DECLARE
  head secmon.audit_head;
  name text;
BEGIN
  SELECT * INTO STRICT head FROM secmon.audit_head FOR UPDATE;
  name := 'audit_entries_from_' || (head.partitioned_to + 1);
  EXECUTE format('CREATE TABLE secmon.%I (LIKE secmon.audit_entries INCLUDING DEFAULTS
                  INCLUDING CONSTRAINTS)', name);
  EXECUTE format('ALTER TABLE secmon.%I OWNER TO secmon_owner', name);
  EXECUTE format('ALTER TABLE secmon.audit_entries ATTACH PARTITION secmon.%I
                  FOR VALUES FROM (%s) TO (%s)', name,
                 head.partitioned_to + 1, head.partitioned_to + head.partition_entries + 1);
  -- Row triggers are inherited, statement triggers are not: TRUNCATE of a leaf would pass.
  EXECUTE format('CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON secmon.%I
                  FOR EACH STATEMENT EXECUTE FUNCTION secmon.audit_refuse_change()', name);
  EXECUTE format('ALTER TABLE secmon.%I ENABLE ALWAYS TRIGGER audit_no_truncate', name);
  EXECUTE format('ALTER TABLE secmon.%I ENABLE ALWAYS TRIGGER audit_no_change', name);
  UPDATE secmon.audit_head SET partitioned_to = partitioned_to + partition_entries;
END
$$;
REVOKE ALL ON FUNCTION secmon.audit_grow() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION secmon.audit_grow() TO secmon_owner;

SET LOCAL ROLE secmon_owner;
SELECT secmon.audit_grow() FROM secmon.audit_head WHERE partitioned_to = 0;

-- ---------------------------------------------------------------------------------------------
-- The way in

-- Appends entries in the order of the arrays and returns a receipt for each. Idempotent: an entry
-- id that is known already gives the old receipt, and is an error if the entry says something else.
-- `data_hash`, seq, time and user are fixed here, not by the caller.
CREATE OR REPLACE FUNCTION secmon.audit_append_batch(
  entry_ids text[], levels text[], event_types text[], actions text[], actors text[],
  resource_types text[], resource_ids text[], execution_ids text[], job_ids text[],
  datas text[], details_list text[]
) RETURNS TABLE (entry_id text, seq bigint, "timestamp" timestamptz, entry_hash bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = secmon, pg_temp
-- One plan for all batches, and one by index: while a table grows, the statistics say that it is
-- empty, and the planner would read all of it to look up a batch's entry ids (measured: 27 ms for 64).
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  batch       CONSTANT integer := cardinality(entry_ids);
  -- Inside SECURITY DEFINER current_user is the owner; the role in force is in the setting.
  caller      CONSTANT text := COALESCE(NULLIF(current_setting('role'), 'none'), session_user);
  head        secmon.audit_head;
  moment      timestamptz;
  data_hashes text[];
  contents    bytea[];
  hashes      bytea[];
  fresh       integer[];
BEGIN
  -- With a snapshot older than the lock, the head read below would be a past one: a fork.
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'audit_append_batch under %; allowed: read committed',
      current_setting('transaction_isolation') USING ERRCODE = 'invalid_transaction_state';
  END IF;
  -- array_send converts to the client's encoding, and hashes are over UTF-8.
  IF pg_client_encoding() <> 'UTF8' THEN
    RAISE EXCEPTION 'client_encoding is %; allowed: UTF8', pg_client_encoding()
      USING ERRCODE = 'character_not_in_repertoire';
  END IF;
  IF batch NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'a batch of % entries; allowed: 1 to 10000', batch
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF (format('[1:%s]', batch) = ALL (ARRAY[
    array_dims(entry_ids), array_dims(levels), array_dims(event_types), array_dims(actions),
    array_dims(actors), array_dims(resource_types), array_dims(resource_ids),
    array_dims(execution_ids), array_dims(job_ids), array_dims(datas), array_dims(details_list)])
  ) IS NOT TRUE THEN
    RAISE EXCEPTION 'an array of the batch is not one-dimensional with subscripts 1 to %', batch
      USING ERRCODE = 'array_subscript_error';
  END IF;
  IF NOT pg_has_role(caller, 'secmon_service', 'MEMBER') AND EXISTS (
    SELECT FROM unnest(actions) AS a (action) WHERE starts_with(a.action, 'log.'))
  THEN
    RAISE EXCEPTION 'actions log.* belong to the log itself; % may not write them', caller
      USING ERRCODE = 'insufficient_privilege';
  END IF;

  -- Before the lock: all hashing that does not depend on the place in the chain. Subscripts, here and
  -- below, take two thirds of the time of unnest, which copies eleven arrays.
  FOR i IN 1 .. batch LOOP
    data_hashes[i] := encode(sha256(convert_to(datas[i], 'UTF8')), 'hex');
    contents[i] := secmon.audit_content_hash(ARRAY[
      session_user::text, entry_ids[i], levels[i], event_types[i], actions[i], actors[i],
      resource_types[i], resource_ids[i], execution_ids[i], job_ids[i], datas[i], data_hashes[i],
      details_list[i]]);
  END LOOP;

  SELECT * INTO STRICT head FROM secmon.audit_head WHERE id FOR UPDATE;

  IF EXISTS (SELECT FROM secmon.audit_entries e WHERE e.entry_id = ANY (entry_ids))
     OR (batch > 1 AND batch <> (SELECT count(DISTINCT u.id) FROM unnest(entry_ids) AS u (id)))
  THEN
    fresh := ARRAY(
      SELECT min(u.place)::integer FROM unnest(entry_ids) WITH ORDINALITY AS u (id, place)
       WHERE NOT EXISTS (SELECT FROM secmon.audit_entries e WHERE e.entry_id = u.id)
       GROUP BY u.id ORDER BY 1);
    IF cardinality(fresh) > 0 THEN
      PERFORM secmon.audit_append_batch(
        ARRAY(SELECT entry_ids[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT levels[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT event_types[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT actions[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT actors[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT resource_types[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT resource_ids[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT execution_ids[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT job_ids[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT datas[i] FROM unnest(fresh) AS f (i)),
        ARRAY(SELECT details_list[i] FROM unnest(fresh) AS f (i)));
    END IF;
    IF EXISTS (
      SELECT FROM unnest(entry_ids, levels, event_types, actions, actors, resource_types,
                         resource_ids, execution_ids, job_ids, datas, details_list)
                  AS t (entry_id, level, event_type, action, actor, resource_type, resource_id,
                        execution_id, job_id, data, details)
        JOIN secmon.audit_entries e ON e.entry_id = t.entry_id
       WHERE (t.level, t.event_type, t.action, t.actor, t.resource_type, t.resource_id,
              t.execution_id, t.job_id, t.data, t.details)
             IS DISTINCT FROM
             (e.level, e.event_type, e.action, e.actor, e.resource_type, e.resource_id,
              e.execution_id, e.job_id, e.data, e.details))
    THEN
      RAISE EXCEPTION 'an entry id of this batch names another entry already'
        USING ERRCODE = 'unique_violation';
    END IF;
    RETURN QUERY
      SELECT e.entry_id, e.seq, e."timestamp", e.entry_hash
        FROM unnest(entry_ids) WITH ORDINALITY AS u (id, place)
        JOIN secmon.audit_entries e ON e.entry_id = u.id ORDER BY u.place;
    RETURN;
  END IF;

  IF head.seq + batch > head.partitioned_to THEN
    PERFORM secmon.audit_grow()
      FROM generate_series(1, (head.seq + batch - head.partitioned_to + head.partition_entries - 1)
                              / head.partition_entries);
  END IF;

  -- Inside the lock, so that time never runs against the order of the chain; if the clock was set
  -- back, it stands still until the clock has caught up.
  moment := GREATEST(clock_timestamp(), head."timestamp");
  hashes[0] := head.entry_hash;
  FOR i IN 1 .. batch LOOP
    hashes[i] := secmon.audit_entry_hash(head.seq + i, hashes[i - 1], moment, contents[i]);
  END LOOP;

  INSERT INTO secmon.audit_entries
  SELECT head.seq + i, hashes[i - 1], moment, session_user, entry_ids[i], levels[i], event_types[i],
         actions[i], actors[i], resource_types[i], resource_ids[i], execution_ids[i], job_ids[i],
         datas[i], data_hashes[i], details_list[i], hashes[i]
    FROM generate_series(1, batch) AS i;

  UPDATE secmon.audit_head
     SET seq = head.seq + batch, entry_hash = hashes[batch], "timestamp" = moment
   WHERE id;

  RETURN QUERY
    SELECT entry_ids[i], head.seq + i, moment, hashes[i] FROM generate_series(1, batch) AS i;
END
$$;

-- Moves up to `most` rows from the outbox to the chain, oldest first, and returns how many: fewer if
-- they are large, for an array has at most a gigabyte. An entry id that the chain knows with another
-- content is kept under a name of its own that nobody can have taken before: an act that was
-- committed must not be lost, and must not stop those behind it.
CREATE OR REPLACE FUNCTION secmon.audit_sequence_batch(most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = secmon, pg_temp
AS $$
DECLARE
  moved secmon.audit_outbox[];
  one   secmon.audit_outbox;
BEGIN
  IF most NOT BETWEEN 1 AND 10000 THEN
    RAISE EXCEPTION 'most is %; allowed: 1 to 10000', most USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- First the chain, then the rows: two sequencers would mix up the order.
  PERFORM FROM secmon.audit_head FOR UPDATE;
  WITH waiting AS (
    SELECT id, data, details FROM secmon.audit_outbox ORDER BY id LIMIT most FOR UPDATE SKIP LOCKED
  ), sized AS (
    SELECT id, sum(COALESCE(octet_length(data), 0) + COALESCE(octet_length(details), 0))
                 OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
      FROM waiting
  ), taken AS (
    DELETE FROM secmon.audit_outbox
     WHERE id IN (SELECT id FROM sized WHERE COALESCE(bytes_before, 0) < 67108864)
    RETURNING audit_outbox
  )
  SELECT array_agg(t.audit_outbox ORDER BY (t.audit_outbox).id) INTO moved FROM taken t;
  IF moved IS NULL THEN
    RETURN 0;
  END IF;
  BEGIN
    PERFORM secmon.audit_append_batch(
      array_agg(m.entry_id ORDER BY m.id), array_agg(m.level ORDER BY m.id),
      array_agg(m.event_type ORDER BY m.id), array_agg(m.action ORDER BY m.id),
      array_agg(m.actor ORDER BY m.id), array_agg(m.resource_type ORDER BY m.id),
      array_agg(m.resource_id ORDER BY m.id), array_agg(m.execution_id ORDER BY m.id),
      array_agg(m.job_id ORDER BY m.id), array_agg(m.data ORDER BY m.id),
      array_agg(m.details ORDER BY m.id))
    FROM unnest(moved) AS m;
  EXCEPTION WHEN unique_violation THEN
    FOREACH one IN ARRAY moved LOOP
      BEGIN
        PERFORM secmon.audit_append_batch(
          ARRAY[one.entry_id], ARRAY[one.level], ARRAY[one.event_type], ARRAY[one.action],
          ARRAY[one.actor], ARRAY[one.resource_type], ARRAY[one.resource_id],
          ARRAY[one.execution_id], ARRAY[one.job_id], ARRAY[one.data], ARRAY[one.details]);
      EXCEPTION WHEN unique_violation THEN
        PERFORM secmon.audit_append_batch(
          ARRAY[one.entry_id || '#outbox-' || one.id || '-' || gen_random_uuid()],
          ARRAY[one.level], ARRAY[one.event_type],
          ARRAY[one.action], ARRAY[one.actor], ARRAY[one.resource_type], ARRAY[one.resource_id],
          ARRAY[one.execution_id], ARRAY[one.job_id], ARRAY[one.data], ARRAY[one.details]);
      END;
    END LOOP;
  END;
  RETURN cardinality(moved);
END
$$;

-- Supersedes everything after the entry with this hash. The head does not move back: that would be
-- a fork, which every witness refuses. The marker names both ends of the range, and the hash of its
-- last entry commits to all of it.
CREATE OR REPLACE FUNCTION secmon.audit_rollback(
  target bytea, marker_id text, actor text, details text
) RETURNS TABLE (marker_seq bigint, removed bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = secmon, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  head  secmon.audit_head;
  kept  bigint;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'audit_rollback under %; allowed: read committed',
      current_setting('transaction_isolation') USING ERRCODE = 'invalid_transaction_state';
  END IF;
  SELECT * INTO STRICT head FROM secmon.audit_head FOR UPDATE;
  -- Committed before, but the answer was lost: the same answer again.
  SELECT e.seq, (e.data::jsonb ->> 'count')::bigint INTO marker_seq, removed
    FROM secmon.audit_entries e
   WHERE e.entry_id = marker_id AND e.action = 'log.rollback'
     AND e.data::jsonb ->> 'to_hash' = encode(target, 'hex');
  IF FOUND THEN
    RETURN NEXT;
    RETURN;
  END IF;
  SELECT e.seq INTO kept FROM secmon.audit_entries e WHERE e.entry_hash = target;
  IF kept IS NULL THEN
    RAISE EXCEPTION 'no entry has the hash %', encode(target, 'hex') USING ERRCODE = 'no_data_found';
  END IF;
  removed := head.seq - kept;
  IF removed = 0 THEN
    marker_seq := NULL;
    RETURN NEXT;
    RETURN;
  END IF;
  SELECT r.seq INTO marker_seq FROM secmon.audit_append_batch(
    ARRAY[marker_id], ARRAY['warn'], ARRAY['config.change'], ARRAY['log.rollback'], ARRAY[actor],
    ARRAY['audit_chain'], ARRAY[NULL::text], ARRAY[NULL::text], ARRAY[NULL::text],
    ARRAY[format('{"count":%s,"from_hash":"%s","from_seq":%s,"to_hash":"%s","to_seq":%s}',
                 removed, encode(head.entry_hash, 'hex'), head.seq, encode(target, 'hex'), kept)],
    ARRAY[details]) r;
  RETURN NEXT;
END
$$;

-- ---------------------------------------------------------------------------------------------
-- The ways out

-- Ranges that rollbacks superseded. A function with the owner's eyes: a reader must not see more
-- only because the marker is another's entry. By the form that audit_rollback gives a marker: an
-- entry that secmon_service wrote past it, without a number, must not make every look at the log fail.
CREATE OR REPLACE FUNCTION secmon.audit_superseded()
RETURNS TABLE (after_seq bigint, marker_seq bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = secmon, pg_temp
AS $$
  SELECT to_seq::bigint, seq
    FROM (SELECT seq, substring(data FROM '"to_seq":([0-9]{1,18})}$') AS to_seq
            FROM secmon.audit_entries WHERE action = 'log.rollback'
          UNION
          -- Archived markers; seq is the first field of the tuple.
          SELECT ('x' || encode(substr(kept, 7, 8), 'hex'))::bit(64)::bigint,
                 substring(encode(kept, 'escape') FROM '"to_seq":([0-9]{1,18})}')
            FROM secmon.audit_archives, unnest(announcements) AS kept) AS marker
   WHERE to_seq IS NOT NULL
$$;

-- The chain as it counts: without what a rollback superseded.
CREATE OR REPLACE VIEW secmon.audit_effective WITH (security_invoker = true) AS
SELECT e.* FROM secmon.audit_entries e
 WHERE NOT EXISTS (
   SELECT FROM secmon.audit_superseded() s WHERE e.seq > s.after_seq AND e.seq < s.marker_seq);

-- The same with the columns of the execution log. An object in `data` and one in `details` are shown
-- as one; anything else keeps its name.
CREATE OR REPLACE VIEW secmon.dag_audit_logs WITH (security_invoker = true) AS
SELECT e.entry_id                       AS id,
       e."timestamp"                    AS "timestamp",
       COALESCE(e.event_type, e.action) AS event_type,
       e.level                          AS level,
       e.execution_id                   AS execution_id,
       e.job_id                         AS job_id,
       e.actor                          AS user_id,
       CASE WHEN jsonb_typeof(e.details::jsonb) = 'object' THEN e.details::jsonb
            WHEN e.details IS NULL THEN '{}'::jsonb
            ELSE jsonb_build_object('details', e.details::jsonb) END
       || CASE WHEN jsonb_typeof(e.data::jsonb) = 'object' THEN e.data::jsonb
               WHEN e.data IS NULL THEN '{}'::jsonb
               ELSE jsonb_build_object('data', e.data::jsonb) END
                                        AS details,
       jsonb_build_object('seq', e.seq, 'action', e.action, 'resource_type', e.resource_type,
                          'resource_id', e.resource_id, 'db_user', e.db_user,
                          'entry_hash', encode(e.entry_hash, 'hex'))
                                        AS metadata,
       e."timestamp"                    AS created_at
  FROM secmon.audit_effective e;

-- ---------------------------------------------------------------------------------------------
-- Rights

ALTER TABLE secmon.audit_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE secmon.audit_entries FORCE ROW LEVEL SECURITY;
-- The append function runs as the owner, whom FORCE binds too.
CREATE POLICY audit_owner ON secmon.audit_entries TO secmon_owner USING (TRUE) WITH CHECK (TRUE);
CREATE POLICY audit_service ON secmon.audit_entries FOR SELECT TO secmon_service USING (TRUE);
CREATE POLICY audit_own ON secmon.audit_entries FOR SELECT TO secmon_reader USING (
  actor = (SELECT secmon.current_user_id())
  OR (execution_id IS NOT NULL AND secmon.is_own_run(execution_id)));

GRANT SELECT ON secmon.audit_entries, secmon.audit_effective, secmon.dag_audit_logs
  TO secmon_service, secmon_reader;
GRANT SELECT ON secmon.audit_head, secmon.audit_checkpoints, secmon.audit_archives,
  secmon.audit_leaves TO secmon_service, secmon_reader;
GRANT SELECT ON secmon.audit_verifications, secmon.audit_outbox TO secmon_service;
GRANT INSERT ON secmon.audit_checkpoints, secmon.audit_verifications TO secmon_service;
GRANT INSERT ON secmon.audit_outbox TO secmon_service, secmon_writer;

REVOKE ALL ON FUNCTION
  secmon.audit_append_batch(text[], text[], text[], text[], text[], text[], text[], text[], text[],
                            text[], text[]),
  secmon.audit_sequence_batch(integer), secmon.audit_rollback(bytea, text, text, text),
  secmon.audit_superseded()
  FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
  secmon.audit_append_batch(text[], text[], text[], text[], text[], text[], text[], text[], text[],
                            text[], text[])
  TO secmon_writer, secmon_service;
GRANT EXECUTE ON FUNCTION secmon.audit_sequence_batch(integer) TO secmon_writer, secmon_service;
GRANT EXECUTE ON FUNCTION secmon.audit_rollback(bytea, text, text, text) TO secmon_service;
GRANT EXECUTE ON FUNCTION secmon.audit_superseded() TO secmon_service, secmon_reader;

-- ---------------------------------------------------------------------------------------------
-- Event triggers: not even the owner may alter or drop what guards the log; a superuser may. Only a
-- superuser can make them, so on a managed server they may be missing: describe_guarantees() tells.
RESET ROLE;

CREATE OR REPLACE FUNCTION secmon.audit_refuse_ddl() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  target text;
BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
    RETURN;
  END IF;
  IF TG_EVENT = 'sql_drop' THEN
    SELECT object_identity INTO target FROM pg_catalog.pg_event_trigger_dropped_objects()
     WHERE object_identity ~ '(^|[ .])secmon\.audit_' LIMIT 1;
  ELSE
    -- After a rename the old name is gone: guarded tables are known by their guards.
    SELECT object_identity INTO target FROM pg_catalog.pg_event_trigger_ddl_commands() c
     WHERE object_identity ~ '(^|[ .])secmon\.audit_'
        OR EXISTS (SELECT FROM pg_catalog.pg_trigger t
                    WHERE t.tgrelid = c.objid AND t.tgname IN ('audit_no_change', 'audit_no_truncate'))
     LIMIT 1;
    IF pg_catalog.to_regclass('secmon.audit_head') IS NULL
       OR pg_catalog.to_regproc('secmon.audit_append_batch') IS NULL
       OR pg_catalog.to_regproc('secmon.audit_refuse_change') IS NULL
    THEN
      target := 'part of secmon.audit_*';
    END IF;
  END IF;
  IF target IS NOT NULL THEN
    RAISE EXCEPTION '% on % is refused: it guards the audit log', TG_TAG, target
      USING ERRCODE = 'insufficient_privilege';
  END IF;
END
$$;

DO $$
BEGIN
  IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    DROP EVENT TRIGGER IF EXISTS secmon_audit_ddl;
    DROP EVENT TRIGGER IF EXISTS secmon_audit_drop;
    CREATE EVENT TRIGGER secmon_audit_ddl ON ddl_command_end
      EXECUTE FUNCTION secmon.audit_refuse_ddl();
    CREATE EVENT TRIGGER secmon_audit_drop ON sql_drop
      EXECUTE FUNCTION secmon.audit_refuse_ddl();
    ALTER EVENT TRIGGER secmon_audit_ddl ENABLE ALWAYS;
    ALTER EVENT TRIGGER secmon_audit_drop ENABLE ALWAYS;
  ELSE
    RAISE NOTICE 'without superuser rights the audit log is not guarded against its owner''s DDL';
  END IF;
END
$$;
SET LOCAL ROLE secmon_owner;
