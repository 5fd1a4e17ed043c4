-- Flows: what an execution waits for, and what becomes of it. docs/architecture.md tells how it fits together.
--
-- An edge says that one execution, the downstream, waits for another, its upstream. It is met when the upstream has ended as the
-- downstream needs it: SUCCESSFUL, or at all. A downstream with an edge that is not met is held: WAITING, and behind no gate. Nothing counts; all of it
-- follows from the rows, and is found anew whenever one of them has changed: django_ray_settle().
--
-- Locks are taken in one order by everybody: an upstream, then its downstreams by their ids, then edges. Whoever changes what an edge says holds its
-- downstream, and writes it: a transaction with an old snapshot that decides about the same one fails to serialize. What somebody else holds for
-- longer is left, and marked: supervisors look at it again.
--
-- Some of these functions have the rights of the owner: whoever enqueues, cancels or records need not have that to write what follows from it. All
-- that they write is what has to be. Temporary tables come last for them, so that nobody slips one under them.
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), 'pg_temp'), true);

-- Whether an execution has an edge that is not met. Who asks holds the execution, so nobody changes its edges meanwhile.
CREATE FUNCTION django_ray_is_held(id uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off SET enable_sort = off AS $$
BEGIN
    RETURN (
        SELECT true FROM django_ray_edge WHERE downstream_id = id AND NOT met ORDER BY downstream_id, upstream_id LIMIT 1
    ) IS NOT NULL;
END
$$;

-- Whether somebody unfinished waits for an execution, or may yet read its result. With a snapshot of its own: who prunes asks once more when it locks a
-- row that has been written since.
CREATE FUNCTION django_ray_is_needed(id uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM django_ray_edge AS edge JOIN django_ray_execution AS downstream ON downstream.task_id = edge.downstream_id
        WHERE edge.upstream_id = id AND downstream.finished_at IS NULL
    );
END
$$;

-- Whoever makes an execution READY need not know of what it waits for, nor of gates. As long as it is held it is behind no gate, and gate_rule
-- remembers which: so no index of what may be admitted holds it.
CREATE OR REPLACE FUNCTION django_ray_on_admission() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.is_upstream OR NEW.needs IS NOT NULL THEN
        PERFORM set_config('django_ray.is_changing', 'on', true);
    END IF;
    IF NEW.state = 'RUNNING' AND NEW.unique_key NOT LIKE 'u:%' THEN
        NEW.unique_key := NULL;
    END IF;
    IF OLD.finished_at IS NOT NULL AND NEW.finished_at IS NULL THEN
        NEW.expires_at := NULL;
    END IF;
    IF NEW.needs IS NOT NULL AND NEW.state = 'READY' THEN
        IF django_ray_is_held(NEW.task_id) THEN
            NEW.state := 'WAITING';
            NEW.due_at := NULL;
            IF NEW.gate IS NOT NULL THEN
                NEW.gate_rule := coalesce(NEW.gate_rule, '{}') || jsonb_build_object('gate', NEW.gate);
                NEW.gate := NULL;
            END IF;
        ELSIF NEW.gate IS NULL AND NEW.gate_rule ? 'gate' THEN
            NEW.gate := NEW.gate_rule ->> 'gate';
            NEW.gate_rule := NEW.gate_rule - 'gate';
        END IF;
    END IF;
    IF NEW.gate IS NOT NULL AND NEW.state = 'READY' AND NEW.due_at IS NULL THEN
        NEW.state := 'WAITING';
    END IF;
    RETURN NEW;
END
$$;

DROP TRIGGER django_ray_on_admission ON django_ray_execution;
CREATE TRIGGER django_ray_on_admission BEFORE UPDATE ON django_ray_execution
FOR EACH ROW WHEN (
    NEW.gate IS NOT NULL OR NEW.unique_key IS NOT NULL OR NEW.expires_at IS NOT NULL OR NEW.needs IS NOT NULL OR NEW.is_upstream
)
EXECUTE FUNCTION django_ray_on_admission();

CREATE OR REPLACE FUNCTION django_ray_on_gated() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.needs IS NOT NULL AND django_ray_is_held(NEW.task_id) THEN
        NEW.state := 'WAITING';
        NEW.due_at := NULL;
        IF NEW.gate IS NOT NULL THEN
            NEW.gate_rule := coalesce(NEW.gate_rule, '{}') || jsonb_build_object('gate', NEW.gate);
            NEW.gate := NULL;
        END IF;
    ELSIF NEW.gate IS NOT NULL AND NEW.due_at IS NULL THEN
        NEW.state := 'WAITING';
    END IF;
    RETURN NEW;
END
$$;

DROP TRIGGER django_ray_on_gated ON django_ray_execution;
CREATE TRIGGER django_ray_on_gated BEFORE INSERT ON django_ray_execution
FOR EACH ROW WHEN (NEW.state = 'READY' AND (NEW.needs IS NOT NULL OR NEW.gate IS NOT NULL AND NEW.due_at IS NULL))
EXECUTE FUNCTION django_ray_on_gated();

-- What executions that have changed may change: their downstreams; and those downstream of these, as far as all of them fail with one that has failed,
-- or no longer do with one that has not. With the one that is to blame. Not by way of those besides.
CREATE FUNCTION django_ray_reach(changed uuid[], besides uuid[]) RETURNS TABLE (task_id uuid, fails boolean, culprit uuid)
LANGUAGE plpgsql VOLATILE ROWS 4 SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH RECURSIVE reach(task_id, fails, culprit) AS (
        SELECT DISTINCT ON (seed.task_id, seed.fails) seed.* FROM (
            SELECT
                edge.downstream_id AS task_id,
                coalesce(upstream.state IN ('FAILED', 'CANCELLED'), NOT edge.met) AS fails,
                django_ray_culprit(edge.upstream_id, upstream.exception_type, upstream.errors) AS culprit
            -- Step by step, each by the index of which the order is, and between one id and itself: whatever statistics say of how many are equal, no
            -- index is read as a whole.
            FROM unnest(changed) AS one(id)
            CROSS JOIN LATERAL (
                SELECT upstream_id, downstream_id, met FROM django_ray_edge WHERE upstream_id BETWEEN one.id AND one.id ORDER BY upstream_id, downstream_id OFFSET 0
            ) AS edge
            LEFT JOIN LATERAL (SELECT state, exception_type, errors FROM django_ray_execution WHERE task_id = one.id OFFSET 0) AS upstream ON true
            UNION ALL
            -- What is held anew, although an upstream of it has failed for good.
            SELECT edge.downstream_id, true, django_ray_culprit(edge.upstream_id, upstream.exception_type, upstream.errors)
            FROM (SELECT task_id, state, gate FROM django_ray_execution WHERE task_id = ANY (changed) OFFSET 0) AS downstream
            CROSS JOIN LATERAL (
                SELECT upstream_id, downstream_id FROM django_ray_edge WHERE downstream_id BETWEEN downstream.task_id AND downstream.task_id AND NOT met
                ORDER BY downstream_id, upstream_id OFFSET 0
            ) AS edge
            LEFT JOIN LATERAL (
                SELECT state, exception_type, errors FROM django_ray_execution WHERE task_id = edge.upstream_id OFFSET 0
            ) AS upstream ON true
            WHERE downstream.state = 'WAITING' AND downstream.gate IS NULL
                AND coalesce(upstream.state IN ('FAILED', 'CANCELLED'), true)
        ) AS seed
        WHERE seed.task_id <> ALL (besides)
        UNION
        SELECT DISTINCT ON (edge.downstream_id, reach.fails) edge.downstream_id, reach.fails, reach.culprit
        FROM reach
        -- By the primary key: many are reached at once, and an index of what is WAITING would be read for each of them.
        CROSS JOIN LATERAL (SELECT state, gate, needs, exception_type FROM django_ray_execution WHERE task_id = reach.task_id OFFSET 0) AS member
        CROSS JOIN LATERAL (
            SELECT downstream_id FROM django_ray_edge WHERE upstream_id BETWEEN reach.task_id AND reach.task_id ORDER BY upstream_id, downstream_id OFFSET 0
        ) AS edge
        WHERE member.needs <> 'end' AND edge.downstream_id <> ALL (besides) AND CASE
            WHEN reach.fails THEN member.state = 'WAITING' AND member.gate IS NULL
            ELSE member.state = 'FAILED' AND member.exception_type = 'django_ray.exceptions.UpstreamFailed'
        END
    )
    SELECT DISTINCT ON (reach.task_id, reach.fails) * FROM reach ORDER BY reach.task_id, reach.fails, reach.culprit;
END
$$;

-- Which execution is to blame for one that has failed: itself, or the one that it names.
CREATE FUNCTION django_ray_culprit(id uuid, exception_type text, errors jsonb) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN exception_type = 'django_ray.exceptions.UpstreamFailed'
        AND errors #>> '{-1,upstream}' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    THEN (errors #>> '{-1,upstream}')::uuid
    ELSE id
END;

-- Whether an edge is met, by the state of its upstream, which is NULL for one that is gone: what it has been met by, it stays met by.
CREATE FUNCTION django_ray_is_met(met boolean, needs text, state text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN needs = 'end' THEN coalesce(state IN ('SUCCESSFUL', 'FAILED', 'CANCELLED'), true)
    ELSE coalesce(state = 'SUCCESSFUL', met)
END;

-- Make these READY, but for those with an equal one that is unfinished; of equal ones the newest. Those that somebody is in the way of, who enqueues an
-- equal one right now.
CREATE FUNCTION django_ray_resume(ids uuid[]) RETURNS uuid[] LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    locked uuid[] := '{}';
    one uuid;
BEGIN
    ids := ARRAY(
        SELECT DISTINCT ON (CASE WHEN unique_key IS NULL OR finished_at IS NULL THEN task_id::text ELSE backend || ' ' || unique_key END) task_id
        FROM django_ray_execution AS execution
        WHERE task_id = ANY (ids)
            AND (unique_key IS NULL OR finished_at IS NULL OR NOT EXISTS (
                SELECT FROM django_ray_execution AS twin
                WHERE twin.backend = execution.backend AND twin.unique_key = execution.unique_key
                    AND twin.state IN ('READY', 'RUNNING', 'WAITING')
            ))
        ORDER BY CASE WHEN unique_key IS NULL OR finished_at IS NULL THEN task_id::text ELSE backend || ' ' || unique_key END, task_id DESC
    );
    IF (SELECT count(unique_key) FROM django_ray_execution WHERE task_id = ANY (ids)) = 0 THEN
        PERFORM django_ray_resume_all(ids);
        RETURN locked;
    END IF;
    BEGIN
        PERFORM django_ray_resume_all(ids);
    EXCEPTION WHEN unique_violation OR lock_not_available THEN
        FOREACH one IN ARRAY ids LOOP
            BEGIN
                PERFORM django_ray_resume_all(ARRAY[one]);
            EXCEPTION
                WHEN unique_violation THEN NULL;
                WHEN lock_not_available THEN locked := locked || one;
            END;
        END LOOP;
    END;
    RETURN locked;
END
$$;

CREATE FUNCTION django_ray_resume_all(ids uuid[]) RETURNS void LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    UPDATE django_ray_execution SET
        state = 'READY', due_at = CASE WHEN run_after > statement_timestamp() THEN run_after END, finished_at = NULL, result = NULL,
        failures = 0, losses = 0, released = 0, missing_since = NULL, cancel_requested_at = NULL
    WHERE task_id = ANY (ids)
$$;

-- Executions have ended, or gone, or are not finished any more: make of what is downstream of them what has to be. Whether somebody was in the way,
-- whose rows are looked at again. Who has to wait for them waits as briefly as a record does.
CREATE FUNCTION django_ray_settle(changed uuid[]) RETURNS boolean LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path FROM CURRENT SET lock_timeout = '50ms'
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
    reached uuid[] := '{}';
    found uuid[];
    late uuid[] := '{}';
    locked uuid[] := '{}';
    callbacks uuid[];  -- Those that need only an end, and may have run while one came.
    fulfilled uuid[];
    unfulfilled uuid[];
    has_failed boolean;
    is_back boolean;
BEGIN
    PERFORM set_config('django_ray.changed', '', true);
    callbacks := ARRAY(SELECT task_id FROM django_ray_execution WHERE task_id = ANY (changed) AND needs = 'end' AND state <> 'RUNNING');
    LOOP
        SELECT ARRAY(SELECT unnest(array_agg(task_id) || callbacks) EXCEPT SELECT unnest(reached)), bool_or(fails), bool_or(NOT fails)
        INTO found, has_failed, is_back FROM django_ray_reach(changed, locked);
        EXIT WHEN found = '{}';
        BEGIN
            PERFORM FROM django_ray_execution WHERE task_id = ANY (found) ORDER BY task_id FOR NO KEY UPDATE;
        EXCEPTION WHEN lock_not_available THEN
            locked := locked || ARRAY(
                SELECT task_id FROM django_ray_execution WHERE task_id = ANY (found) EXCEPT
                SELECT task_id FROM (
                    SELECT task_id FROM django_ray_execution WHERE task_id = ANY (found) ORDER BY task_id FOR NO KEY UPDATE SKIP LOCKED
                ) AS free
            );
        END;
        reached := reached || found;  -- and what has been enqueued after these meanwhile
    END LOOP;
    IF reached = '{}' THEN
        RETURN false;
    END IF;
    is_back := is_back AND EXISTS (
        SELECT FROM (SELECT state, exception_type FROM django_ray_execution WHERE task_id = ANY (reached) OFFSET 0) AS one
        WHERE state = 'FAILED' AND exception_type = 'django_ray.exceptions.UpstreamFailed'
    );

    -- From here on each statement sees what those before us have made of these rows.
    WITH news AS (
        -- From the upstream to its edges, whatever statistics say: a downstream may have ten thousand of them.
        UPDATE django_ray_edge AS edge SET met = now.met, is_late = false
        FROM (
            SELECT own.at, fresh.met
            FROM (
                SELECT edge.* FROM unnest(changed) AS one(id)
                CROSS JOIN LATERAL (
                    SELECT *, ctid AS at FROM django_ray_edge WHERE upstream_id BETWEEN one.id AND one.id
                    ORDER BY upstream_id, downstream_id OFFSET 0
                ) AS edge
                UNION ALL
                SELECT edge.* FROM unnest(callbacks) AS one(id)
                CROSS JOIN LATERAL (
                    SELECT *, ctid AS at FROM django_ray_edge WHERE downstream_id BETWEEN one.id AND one.id AND NOT met
                    ORDER BY downstream_id, upstream_id OFFSET 0
                ) AS edge
            ) AS own
            CROSS JOIN LATERAL (SELECT needs, state FROM django_ray_execution WHERE task_id = own.downstream_id OFFSET 0) AS downstream
            LEFT JOIN LATERAL (SELECT state FROM django_ray_execution WHERE task_id = own.upstream_id OFFSET 0) AS upstream ON true
            -- What needs only an end, and runs, does not see one that comes now: it is met when that runs no more, which then runs once more.
            CROSS JOIN LATERAL (
                SELECT django_ray_is_met(own.met, downstream.needs, upstream.state)
                    AND (own.met OR downstream.needs <> 'end' OR downstream.state <> 'RUNNING') AS met
            ) AS fresh
            WHERE own.downstream_id <> ALL (locked) AND (own.met <> fresh.met OR own.is_late)
            OFFSET 0
        ) AS now
        WHERE edge.ctid = now.at  -- nobody else changes an edge whose downstream we hold
        RETURNING edge.downstream_id, edge.met
    )
    SELECT array_agg(DISTINCT downstream_id) FILTER (WHERE met), array_agg(DISTINCT downstream_id) FILTER (WHERE NOT met)
    INTO fulfilled, unfulfilled FROM news;

    IF has_failed THEN
        UPDATE django_ray_execution AS execution SET
            -- What is enqueued into a flow that is cancelled is cancelled, also where what it waits for was cancelled before it came.
            state = CASE WHEN is_cancelled THEN 'CANCELLED' ELSE 'FAILED' END, finished_at = statement_timestamp(),
            errors = errors || CASE
                WHEN is_cancelled THEN django_ray_error('TaskCancelled', 'The flow was cancelled.', worker_ids)
                ELSE django_ray_error('UpstreamFailed', message, worker_ids) || jsonb_build_object('upstream', culprit)
            END
        FROM (
            SELECT reach.task_id, reach.culprit, CASE
                WHEN upstream.task_id IS NULL THEN 'The execution ' || reach.culprit || ', which it waited for, is gone.'
                ELSE left(upstream.callable_path, 300) || ' ' || reach.culprit || CASE upstream.state
                    WHEN 'CANCELLED' THEN ' was cancelled.'
                    ELSE ' failed: ' || left(coalesce(upstream.exception_type, '') || ': ' || coalesce(upstream.errors #>> '{-1,message}', ''), 1000)
                END
            END AS message, EXISTS (
                SELECT FROM django_ray_flow AS flow WHERE flow.id = held.flow_id AND flow.cancelled_at IS NOT NULL
            ) AS is_cancelled
            FROM django_ray_reach(changed, locked) AS reach
            CROSS JOIN LATERAL (SELECT state, gate, needs, flow_id FROM django_ray_execution WHERE task_id = reach.task_id OFFSET 0) AS held
            LEFT JOIN django_ray_execution AS upstream ON upstream.task_id = reach.culprit
            WHERE reach.fails AND held.state = 'WAITING' AND held.gate IS NULL AND held.needs <> 'end'
            OFFSET 0
        ) AS doomed
        WHERE execution.task_id = doomed.task_id;
    END IF;

    IF is_back THEN
        -- What failed because of another one fails no more, unless one of its upstreams still does.
        WITH RECURSIVE back AS MATERIALIZED (
            SELECT reach.task_id FROM django_ray_reach(changed, locked) AS reach
            CROSS JOIN LATERAL (
                SELECT state, needs, exception_type FROM django_ray_execution WHERE task_id = reach.task_id OFFSET 0
            ) AS execution
            WHERE NOT reach.fails AND execution.state = 'FAILED' AND execution.needs <> 'end'
                AND execution.exception_type = 'django_ray.exceptions.UpstreamFailed'
        ), stopped(task_id) AS (
            SELECT back.task_id FROM back
            CROSS JOIN LATERAL (
                SELECT upstream_id FROM django_ray_edge WHERE downstream_id BETWEEN back.task_id AND back.task_id AND NOT met ORDER BY downstream_id, upstream_id OFFSET 0
            ) AS edge
            LEFT JOIN LATERAL (SELECT state FROM django_ray_execution WHERE task_id = edge.upstream_id OFFSET 0) AS upstream ON true
            WHERE coalesce(upstream.state IN ('FAILED', 'CANCELLED'), true) AND edge.upstream_id NOT IN (SELECT task_id FROM back)
            UNION
            SELECT edge.downstream_id FROM stopped
            CROSS JOIN LATERAL (
                SELECT downstream_id FROM django_ray_edge WHERE upstream_id BETWEEN stopped.task_id AND stopped.task_id ORDER BY upstream_id, downstream_id OFFSET 0
            ) AS edge
            WHERE (edge.downstream_id IN (SELECT task_id FROM back)) IS TRUE  -- hashed
        )
        SELECT django_ray_resume(ARRAY(SELECT task_id FROM back EXCEPT SELECT task_id FROM stopped)) INTO found;
        late := late || found;
    END IF;

    IF fulfilled IS NOT NULL THEN
        -- What needs an end alone and has run before runs once more.
        late := late || django_ray_resume(ARRAY(
            SELECT task_id FROM django_ray_execution AS execution
            WHERE task_id = ANY (fulfilled)
                AND (
                    state = 'WAITING' AND gate IS NULL
                    OR needs = 'end' AND state IN ('SUCCESSFUL', 'FAILED') AND started_at IS NOT NULL
                )
                AND NOT django_ray_is_held(task_id)
        ));
    END IF;

    IF unfulfilled IS NOT NULL THEN
        -- What has not begun waits once more: the trigger holds it.
        UPDATE django_ray_execution SET state = 'READY'
        WHERE task_id = ANY (unfulfilled) AND (state = 'READY' OR state = 'WAITING' AND gate IS NOT NULL);
    END IF;

    -- What was not written for itself.
    UPDATE django_ray_execution SET needs = needs
    WHERE task_id = ANY (reached) AND task_id <> ALL (locked) AND xmin <> pg_current_xact_id()::xid;

    IF locked = '{}' AND late = '{}' THEN
        RETURN false;
    END IF;
    -- What has failed, or come back, with these was looked at for itself when that was written. Nobody who is idle has locked an edge of theirs: only the
    -- commit of who deletes the downstream.
    PERFORM set_config('lock_timeout', '5s', true);
    PERFORM FROM django_ray_edge
    WHERE downstream_id = ANY (locked || late) AND (upstream_id = ANY (changed) OR downstream_id = ANY (callbacks)) AND NOT is_late
    ORDER BY downstream_id, upstream_id FOR NO KEY UPDATE;
    UPDATE django_ray_edge SET is_late = true
    WHERE downstream_id = ANY (locked || late) AND (upstream_id = ANY (changed) OR downstream_id = ANY (callbacks)) AND NOT is_late;
    PERFORM pg_notify(django_ray_channel('full:' || backend), '')
    FROM (SELECT DISTINCT backend FROM django_ray_execution WHERE task_id = ANY (locked || late)) AS late;
    RETURN true;
END
$$;

-- What somebody was in the way of, up to ten thousand edges; whether somebody still is, or more are left. Upstreams are locked here too: who ends one right now
-- sees what was made of its edges, and settles what is left.
CREATE FUNCTION django_ray_settle_late() RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    late uuid[];
    free uuid[];
BEGIN
    FOR round IN 1 .. 10 LOOP
        -- Whoever is locked for long keeps no others waiting.
        late := ARRAY(
            SELECT edge.upstream_id
            FROM django_ray_edge AS edge JOIN django_ray_execution AS downstream ON downstream.task_id = edge.downstream_id
            WHERE edge.is_late ORDER BY edge.downstream_id, edge.upstream_id LIMIT 1000
            FOR NO KEY UPDATE OF downstream SKIP LOCKED
        );
        free := ARRAY(SELECT task_id FROM django_ray_execution WHERE task_id = ANY (late) ORDER BY task_id FOR NO KEY UPDATE SKIP LOCKED)
            || ARRAY(SELECT DISTINCT id FROM unnest(late) AS id WHERE NOT EXISTS (SELECT FROM django_ray_execution WHERE task_id = id));
        EXIT WHEN free = '{}' OR django_ray_settle(free);
    END LOOP;
    RETURN EXISTS (
        SELECT FROM django_ray_edge AS edge JOIN django_ray_execution AS downstream ON downstream.task_id = edge.downstream_id
        WHERE edge.is_late
    );
END
$$;

-- Each row of a statement that matters to others is noted, and looked at when all of them are written: of ten thousand that a record ends, what waits
-- for them is written once for a few hundred. Transition tables would copy the rows of every statement for it. The condition of a statement's trigger is
-- looked at before the triggers of its rows run, but after those BEFORE them: so these say that there may be something.
CREATE FUNCTION django_ray_on_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    changed text := concat_ws(',', nullif(current_setting('django_ray.changed', true), ''), coalesce(NEW.task_id, OLD.task_id)::text);
BEGIN
    IF length(changed) < 9472 THEN  -- 256 ids
        PERFORM set_config('django_ray.changed', changed, true);
    ELSE
        PERFORM django_ray_settle(string_to_array(changed, ',')::uuid[]);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION django_ray_on_changes() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('django_ray.is_changing', '', true);
    IF current_setting('django_ray.changed', true) <> '' THEN
        PERFORM django_ray_settle(string_to_array(current_setting('django_ray.changed'), ',')::uuid[]);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER django_ray_on_change AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (
    NEW.is_upstream AND NEW.state <> OLD.state AND (NEW.finished_at IS NOT NULL OR OLD.finished_at IS NOT NULL)
    OR NEW.needs IS NOT NULL AND NEW.state = 'WAITING' AND NEW.gate IS NULL AND OLD.finished_at IS NOT NULL
    OR NEW.needs = 'end' AND OLD.state = 'RUNNING' AND NEW.state <> 'RUNNING'
) EXECUTE FUNCTION django_ray_on_change();

CREATE TRIGGER django_ray_on_changes AFTER UPDATE ON django_ray_execution
FOR EACH STATEMENT WHEN (current_setting('django_ray.is_changing', true) = 'on') EXECUTE FUNCTION django_ray_on_changes();

-- What has ended is nobody's to wait for any more. A result that is gone is found missing by whoever reads it.
CREATE TRIGGER django_ray_on_loss AFTER DELETE ON django_ray_execution
FOR EACH ROW WHEN (OLD.is_upstream AND OLD.finished_at IS NULL) EXECUTE FUNCTION django_ray_on_change();

CREATE TRIGGER django_ray_on_losses AFTER DELETE ON django_ray_execution
FOR EACH STATEMENT EXECUTE FUNCTION django_ray_on_changes();

-- A supervisor prunes no result that somebody waits for: 0.1.0 does not ask. Who deletes one in another way means it.
CREATE FUNCTION django_ray_on_pruned() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    RETURN CASE WHEN django_ray_is_needed(OLD.task_id) THEN NULL ELSE OLD END;
END
$$;

CREATE TRIGGER django_ray_on_pruned BEFORE DELETE ON django_ray_execution
FOR EACH ROW WHEN (OLD.is_upstream AND OLD.finished_at IS NOT NULL AND current_setting('application_name') = 'django-ray-listen')
EXECUTE FUNCTION django_ray_on_pruned();

CREATE FUNCTION django_ray_on_gone() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM FROM django_ray_edge WHERE downstream_id = OLD.task_id ORDER BY upstream_id FOR UPDATE;
    DELETE FROM django_ray_edge WHERE downstream_id = OLD.task_id;
    RETURN NULL;
END
$$;

-- At the commit: until then who ends an upstream may have to mark them.
CREATE CONSTRAINT TRIGGER django_ray_on_gone AFTER DELETE ON django_ray_execution DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (OLD.needs IS NOT NULL) EXECUTE FUNCTION django_ray_on_gone();

-- The edges of calls that are about to be inserted with these ids, in their order: who is there already gets none, or a web process could have what has
-- ended run again, without its result. The upstreams are marked, each of them: whoever ends one has either been
-- seen here, or sees the mark and the edge; at any isolation level, since the mark is a new version of the row. What is READY and was locked for
-- a moment rings again.
CREATE FUNCTION django_ray_link(calls json, ids uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    upstreams uuid[] := ARRAY(
        SELECT DISTINCT upstream::uuid
        FROM json_array_elements(calls) AS call
        CROSS JOIN LATERAL json_array_elements_text(call #> '{link,upstreams}') AS upstream
    );
BEGIN
    PERFORM FROM django_ray_execution WHERE task_id = ANY (upstreams) ORDER BY task_id FOR NO KEY UPDATE;
    UPDATE django_ray_execution SET is_upstream = true WHERE task_id = ANY (upstreams);
    INSERT INTO django_ray_edge (upstream_id, downstream_id, place, met, is_late)
    SELECT upstream::uuid, ids[number], place, django_ray_is_met(false, link.needs, execution.state), false
    FROM (
        -- Once for each call, and not for each of its upstreams.
        SELECT number, call #>> '{link,needs}' AS needs, call #> '{link,upstreams}' AS given
        FROM json_array_elements(calls) WITH ORDINALITY AS element(call, number)
        OFFSET 0
    ) AS link
    CROSS JOIN LATERAL json_array_elements_text(link.given) WITH ORDINALITY AS each(upstream, place)
    LEFT JOIN django_ray_execution AS execution ON execution.task_id = upstream::uuid
    WHERE NOT EXISTS (SELECT FROM django_ray_execution WHERE task_id = ids[number])
    ON CONFLICT DO NOTHING;
END
$$;

-- After the insert: edges of what was a duplicate go; and what waits for something that has failed fails.
CREATE FUNCTION django_ray_linked(ids uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path FROM CURRENT
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
BEGIN
    DELETE FROM django_ray_edge AS edge
    WHERE downstream_id = ANY (ids) AND NOT EXISTS (SELECT FROM django_ray_execution WHERE task_id = edge.downstream_id);
    PERFORM django_ray_settle(ids)
    WHERE EXISTS (
        SELECT FROM django_ray_edge AS edge LEFT JOIN django_ray_execution AS upstream ON upstream.task_id = edge.upstream_id
        WHERE edge.downstream_id = ANY (ids) AND NOT edge.met AND coalesce(upstream.state IN ('FAILED', 'CANCELLED'), true)
    );
END
$$;

-- Cancel what is unfinished of a flow, and what is enqueued into it from now on. How many, and whether somebody has locked others: those are for a second
-- time.
CREATE FUNCTION django_ray_cancel_flow(id uuid) RETURNS TABLE (number int, has_locked boolean) LANGUAGE plpgsql VOLATILE ROWS 1
SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('django_ray.flow', '', true);
    UPDATE django_ray_flow AS flow SET cancelled_at = statement_timestamp() WHERE flow.id = $1 AND cancelled_at IS NULL;
    WITH free AS MATERIALIZED (
        SELECT task_id FROM django_ray_execution
        WHERE flow_id = $1 AND state IN ('WAITING', 'READY', 'RUNNING') AND (state <> 'RUNNING' OR cancel_requested_at IS NULL)
        ORDER BY task_id
        FOR NO KEY UPDATE SKIP LOCKED
    ), gone AS (
        UPDATE django_ray_execution SET
            state = CASE WHEN state <> 'RUNNING' THEN 'CANCELLED' ELSE state END,
            finished_at = CASE WHEN state <> 'RUNNING' THEN statement_timestamp() END,
            due_at = NULL,
            errors = CASE
                WHEN state <> 'RUNNING' THEN errors || django_ray_error('TaskCancelled', 'The flow was cancelled.', worker_ids)
                ELSE errors
            END,
            cancel_requested_at = statement_timestamp()
        WHERE task_id = ANY (ARRAY(SELECT task_id FROM free))
        RETURNING 1
    )
    SELECT count(*) INTO number FROM gone;
    has_locked := EXISTS (
        SELECT FROM django_ray_execution
        WHERE flow_id = $1 AND state IN ('WAITING', 'READY', 'RUNNING') AND (state <> 'RUNNING' OR cancel_requested_at IS NULL)
    );
    RETURN NEXT;
END
$$;
REVOKE EXECUTE ON FUNCTION django_ray_cancel_flow(uuid) FROM PUBLIC;

-- What is enqueued into a flow that is being cancelled is cancelled as well. Found out when it is committed: only then the row of the flow is locked, and
-- whoever cancels waits for nobody's transaction but for that moment.
CREATE FUNCTION django_ray_on_member() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    is_cancelled boolean;
BEGIN
    IF current_setting('django_ray.flow', true) = NEW.flow_id::text THEN
        RETURN NULL;  -- it was asked in this transaction, and is locked
    END IF;
    SELECT cancelled_at IS NOT NULL INTO is_cancelled FROM django_ray_flow WHERE id = NEW.flow_id FOR SHARE;
    IF is_cancelled THEN
        PERFORM django_ray_cancel_flow(NEW.flow_id);
    ELSE
        PERFORM set_config('django_ray.flow', NEW.flow_id::text, true);
    END IF;
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER django_ray_on_member AFTER INSERT ON django_ray_execution DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.flow_id IS NOT NULL) EXECUTE FUNCTION django_ray_on_member();

-- One round of django_ray_enqueue_admitted(): insert the chosen calls, which are places, and see what the others are duplicates of. Those
-- that are left met an execution that has ended, or started, since.
CREATE OR REPLACE FUNCTION django_ray_enqueue_round(of_backend text, calls json, ids uuid[], keys text[], chosen int[])
RETURNS TABLE (left_over int[], twins jsonb) LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    inserted uuid[];
    twin uuid;
    place int;
    each json[];
BEGIN
    WITH fresh AS (
        INSERT INTO django_ray_execution AS execution (
            task_id, backend, queue_name, priority, callable_path, args, kwargs, options, carrier, enqueued_at, run_after,
            due_at, unique_key, gate, gate_rule, expires_at, flow_id, needs
        )
        SELECT
            ids[number], of_backend, coalesce(queue_name, 'default'), coalesce(priority, 0), callable_path,
            coalesce(args, '[]'), coalesce(kwargs, '{}'), options, carrier, statement_timestamp(),
            coalesce(moment, statement_timestamp() + delay), coalesce(moment, statement_timestamp() + delay),
            admission ->> 'unique', admission ->> 'gate', admission -> 'rule',
            coalesce(moment, statement_timestamp() + coalesce(delay, '0')) + (admission ->> 'expires')::interval,
            (link ->> 'flow')::uuid, CASE WHEN link ? 'upstreams' THEN link ->> 'needs' END
        FROM ROWS FROM (
            json_to_recordset(calls) AS (
                queue_name text, priority int2, callable_path text, args jsonb, kwargs jsonb, options jsonb,
                carrier jsonb, moment timestamptz, delay interval, admission jsonb, link jsonb
            )
        ) WITH ORDINALITY AS call(
            queue_name, priority, callable_path, args, kwargs, options, carrier, moment, delay, admission, link, number
        )
        WHERE number = ANY (chosen)
        ORDER BY admission ->> 'unique' COLLATE "C", number
        ON CONFLICT (backend, unique_key) WHERE unique_key IS NOT NULL AND state IN ('READY', 'RUNNING', 'WAITING') DO NOTHING
        RETURNING execution.task_id
    )
    SELECT array_agg(task_id) INTO inserted FROM fresh;
    twins := '{}';
    IF EXISTS (SELECT FROM unnest(keys) AS key WHERE key LIKE 'r:%') THEN
        each := ARRAY(SELECT json_array_elements(calls));
    END IF;
    left_over := ARRAY(SELECT number FROM unnest(chosen) AS number WHERE ids[number] <> ALL (coalesce(inserted, '{}')));
    -- In the order of their keys, too: who replaces waits for who replaces.
    FOREACH place IN ARRAY ARRAY(SELECT number FROM unnest(left_over) AS number ORDER BY keys[number] COLLATE "C") LOOP
        twin := (
            SELECT task_id FROM django_ray_execution
            WHERE backend = of_backend AND unique_key = keys[place] COLLATE "C" AND state IN ('READY', 'RUNNING', 'WAITING')
        );
        -- It may have ended, or started, in between: then the key is free.
        IF twin IS NOT NULL AND (
            keys[place] NOT LIKE 'r:%' OR django_ray_replace(twin, keys[place], each[place])
        ) THEN
            twins := twins || jsonb_build_object(keys[place], twin);
            left_over := array_remove(left_over, place);
        END IF;
    END LOOP;
    RETURN NEXT;
END
$$;

-- As before, with "link": {"flow": an id, "needs": "success" or "end", "upstreams": [ids in the order of the call]}. "admission": {"unique": a key, "gate": a text, "rule": {...}, "expires": an
-- interval}. Of an unfinished execution with the same key it is a duplicate: nothing is inserted, and the id is that of the other. A key that
-- begins with 'r:' gives the other one, which has not started, its arguments and its time. A key that begins with 'u:' is held until
-- the execution has ended, any other until it starts.
CREATE OR REPLACE FUNCTION django_ray_enqueue_admitted(of_backend text, calls json)
RETURNS TABLE (task_id uuid, enqueued_at timestamptz, run_after timestamptz, is_duplicate boolean) LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    -- Made before, in their order, since rows are inserted in that of their keys: two who enqueue the same ones never wait in a ring.
    ids uuid[] := ARRAY(SELECT django_ray_uuid7() FROM generate_series(1, json_array_length(calls)));
    keys text[] := ARRAY(
        SELECT call #>> '{admission,unique}'
        FROM json_array_elements(calls) WITH ORDINALITY AS element(call, number) ORDER BY number
    );
    -- The places of the calls that are to be inserted: of each key the first, or the last of those that replace.
    chosen int[] := ARRAY(
        SELECT number FROM (
            SELECT number, key, CASE
                WHEN key LIKE 'r:%' THEN max(number) OVER (PARTITION BY key) ELSE min(number) OVER (PARTITION BY key)
            END AS wanted
            FROM unnest(keys) WITH ORDINALITY AS one(key, number)
        ) AS one
        WHERE key IS NULL OR number = wanted
    );
    has_many boolean := (SELECT count(DISTINCT key) > 1 FROM unnest(keys) AS key);
    has_links boolean := EXISTS (SELECT FROM json_array_elements(calls) AS call WHERE call #> '{link,upstreams}' IS NOT NULL);
    twins jsonb := '{}';  -- By their keys: the executions that calls have become.
    ended record;
BEGIN
    IF has_links THEN
        PERFORM django_ray_link(calls, ids);
    END IF;
    FOR round IN 1 .. 1000 LOOP
        IF has_many THEN
            -- What is left must not be inserted by one that holds keys after it. So all of them are given back, and it begins anew.
            BEGIN
                SELECT * INTO ended FROM django_ray_enqueue_round(of_backend, calls, ids, keys, chosen);
                IF ended.left_over <> '{}' THEN
                    RAISE USING ERRCODE = 'DRNEW';
                END IF;
            EXCEPTION WHEN SQLSTATE 'DRNEW' THEN
                CONTINUE;
            END;
        ELSE
            SELECT * INTO ended FROM django_ray_enqueue_round(of_backend, calls, ids, keys, chosen);
        END IF;
        twins := twins || ended.twins;
        chosen := ended.left_over;
        EXIT WHEN chosen = '{}';
    END LOOP;
    IF chosen <> '{}' THEN
        RAISE 'Executions with the keys of these calls come and go too fast.' USING ERRCODE = 'serialization_failure';
    END IF;

    -- What was inserted for a key is what the other calls of that key are duplicates of.
    twins := twins || coalesce((
        SELECT jsonb_object_agg(unique_key, task_id) FROM django_ray_execution
        WHERE task_id = ANY (ids) AND unique_key IS NOT NULL
    ), '{}');
    IF has_links THEN
        PERFORM django_ray_linked(ids);
    END IF;
    RETURN QUERY
    SELECT execution.task_id, execution.enqueued_at, execution.run_after, execution.task_id <> ids[number]
    FROM unnest(keys) WITH ORDINALITY AS call(key, number)
    JOIN django_ray_execution AS execution ON execution.task_id = coalesce((twins ->> key)::uuid, ids[number])
    ORDER BY number;
END
$$;
