-- The functions and triggers of before. What is held is cancelled: they would start it at once, without the results that it waits for.
UPDATE django_ray_execution SET
    state = 'CANCELLED', finished_at = statement_timestamp(),
    errors = errors || django_ray_error('TaskCancelled', 'What it waited for is not known to this version.', worker_ids)
WHERE state = 'WAITING' AND gate IS NULL;
DROP TRIGGER django_ray_on_member ON django_ray_execution;
DROP FUNCTION django_ray_on_member();
DROP FUNCTION django_ray_cancel_flow(uuid);
DROP TRIGGER django_ray_on_pruned ON django_ray_execution;
DROP FUNCTION django_ray_on_pruned();
DROP TRIGGER django_ray_on_gone ON django_ray_execution;
DROP FUNCTION django_ray_on_gone();
DROP TRIGGER django_ray_on_losses ON django_ray_execution;
DROP TRIGGER django_ray_on_loss ON django_ray_execution;
DROP TRIGGER django_ray_on_changes ON django_ray_execution;
DROP TRIGGER django_ray_on_change ON django_ray_execution;
DROP FUNCTION django_ray_on_changes();
DROP FUNCTION django_ray_on_change();
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
            due_at, unique_key, gate, gate_rule, expires_at
        )
        SELECT
            ids[number], of_backend, coalesce(queue_name, 'default'), coalesce(priority, 0), callable_path,
            coalesce(args, '[]'), coalesce(kwargs, '{}'), options, carrier, statement_timestamp(),
            coalesce(moment, statement_timestamp() + delay), coalesce(moment, statement_timestamp() + delay),
            admission ->> 'unique', admission ->> 'gate', admission -> 'rule',
            coalesce(moment, statement_timestamp() + coalesce(delay, '0')) + (admission ->> 'expires')::interval
        FROM ROWS FROM (
            json_to_recordset(calls) AS (
                queue_name text, priority int2, callable_path text, args jsonb, kwargs jsonb, options jsonb,
                carrier jsonb, moment timestamptz, delay interval, admission jsonb
            )
        ) WITH ORDINALITY AS call(
            queue_name, priority, callable_path, args, kwargs, options, carrier, moment, delay, admission, number
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
    twins jsonb := '{}';  -- By their keys: the executions that calls have become.
    ended record;
BEGIN
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
    RETURN QUERY
    SELECT execution.task_id, execution.enqueued_at, execution.run_after, execution.task_id <> ids[number]
    FROM unnest(keys) WITH ORDINALITY AS call(key, number)
    JOIN django_ray_execution AS execution ON execution.task_id = coalesce((twins ->> key)::uuid, ids[number])
    ORDER BY number;
END
$$;

DROP FUNCTION django_ray_linked(uuid[]);
DROP FUNCTION django_ray_link(json, uuid[]);
DROP FUNCTION django_ray_settle_late();
DROP FUNCTION django_ray_settle(uuid[]);
DROP FUNCTION django_ray_is_met(boolean, text, text);
DROP FUNCTION django_ray_resume(uuid[]);
DROP FUNCTION django_ray_resume_all(uuid[]);
DROP FUNCTION django_ray_culprit(uuid, text, jsonb);
DROP FUNCTION django_ray_reach(uuid[], uuid[]);

CREATE OR REPLACE FUNCTION django_ray_on_admission() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.state = 'RUNNING' AND NEW.unique_key NOT LIKE 'u:%' THEN
        NEW.unique_key := NULL;
    END IF;
    IF OLD.finished_at IS NOT NULL AND NEW.finished_at IS NULL THEN
        NEW.expires_at := NULL;
    END IF;
    IF NEW.gate IS NOT NULL AND NEW.state = 'READY' AND NEW.due_at IS NULL THEN
        NEW.state := 'WAITING';
    END IF;
    RETURN NEW;
END
$$;

DROP TRIGGER django_ray_on_admission ON django_ray_execution;
CREATE TRIGGER django_ray_on_admission BEFORE UPDATE ON django_ray_execution
FOR EACH ROW WHEN (NEW.gate IS NOT NULL OR NEW.unique_key IS NOT NULL OR NEW.expires_at IS NOT NULL)
EXECUTE FUNCTION django_ray_on_admission();

CREATE OR REPLACE FUNCTION django_ray_on_gated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.state := 'WAITING';
    RETURN NEW;
END
$$;

DROP TRIGGER django_ray_on_gated ON django_ray_execution;
CREATE TRIGGER django_ray_on_gated BEFORE INSERT ON django_ray_execution
FOR EACH ROW WHEN (NEW.gate IS NOT NULL AND NEW.state = 'READY' AND NEW.due_at IS NULL)
EXECUTE FUNCTION django_ray_on_gated();

DROP FUNCTION django_ray_is_needed(uuid);
DROP FUNCTION django_ray_is_held(uuid);
