-- The functions and triggers of before. What waits behind gates is made claimable by the migration.
DROP FUNCTION django_ray_enqueue_admitted(text, json);
DROP FUNCTION django_ray_enqueue_round(text, json, uuid[], text[], int[]);
DROP FUNCTION django_ray_replace(uuid, text, json);
DROP FUNCTION django_ray_expire(text);
DROP FUNCTION django_ray_make_way(text);
DROP FUNCTION django_ray_error(text, text, jsonb);
DROP FUNCTION django_ray_admissible(text, text[], int, text, text);
DROP TRIGGER django_ray_on_start ON django_ray_execution;
DROP FUNCTION django_ray_on_start();
DROP FUNCTION django_ray_places(text, text, jsonb, int);
DROP FUNCTION django_ray_gate_rule(text, text, jsonb);
DROP FUNCTION django_ray_number(jsonb, float8, float8);
DROP TRIGGER django_ray_on_gate_changed ON django_ray_gate;
DROP TRIGGER django_ray_on_gate ON django_ray_gate;
DROP TRIGGER django_ray_on_place_deleted ON django_ray_execution;
DROP TRIGGER django_ray_on_place ON django_ray_execution;
DROP FUNCTION django_ray_on_place();
DROP TRIGGER django_ray_on_admission ON django_ray_execution;
DROP FUNCTION django_ray_on_admission();
DROP TRIGGER django_ray_on_gated ON django_ray_execution;
DROP FUNCTION django_ray_on_gated();

CREATE OR REPLACE FUNCTION django_ray_on_insert() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring_queue(backend, queue_name)
    FROM (SELECT DISTINCT backend, queue_name FROM new_rows WHERE state = 'READY') AS queue;
    RETURN NULL;
END
$$;

DROP TRIGGER django_ray_on_update ON django_ray_execution;
CREATE TRIGGER django_ray_on_update AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (NEW.state = 'READY') EXECUTE FUNCTION django_ray_on_update();

CREATE OR REPLACE FUNCTION django_ray_enqueue_ticks(schedules int[], ticks timestamptz[])
RETURNS TABLE (task_id uuid, schedule_id int, tick timestamptz) LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    INSERT INTO django_ray_execution AS execution
        (backend, queue_name, priority, callable_path, args, kwargs, options, carrier, enqueued_at, schedule_id, tick)
    SELECT
        backend, queue_name, priority, callable_path, args, kwargs, options,
        jsonb_build_object('schedule', jsonb_build_object('name', name, 'tick', due.tick, 'zone', left(time_zone, 255))),
        statement_timestamp(), schedule.id, due.tick
    FROM unnest(schedules, ticks) WITH ORDINALITY AS due(id, tick, place)
    JOIN django_ray_schedule AS schedule ON schedule.id = due.id
    ORDER BY due.place
    ON CONFLICT (schedule_id, tick) WHERE schedule_id IS NOT NULL DO NOTHING
    RETURNING execution.task_id, execution.schedule_id, execution.tick;
END
$$;

CREATE OR REPLACE FUNCTION django_ray_declare(of_backend text, definitions json, tasks json, counts boolean) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO django_ray_schedule AS schedule (
        backend, name, callable_path, args, kwargs, queue_name, priority, options, cron, every, time_zone, missed, missed_within,
        overlap, is_declared, seen
    )
    SELECT
        of_backend, name, callable_path, args, kwargs, queue_name, priority, options, cron, make_interval(secs => every), time_zone,
        missed, make_interval(secs => missed_within), overlap, true, jsonb_build_array(digest)
    FROM json_to_recordset(definitions) AS definition(
        name text, callable_path text, args jsonb, kwargs jsonb, queue_name text, priority int2, options jsonb, cron text,
        every float8, time_zone text, missed text, missed_within float8, overlap text, digest text
    )
    ORDER BY name
    ON CONFLICT (backend, name) DO UPDATE SET
        callable_path = excluded.callable_path, args = excluded.args, kwargs = excluded.kwargs,
        queue_name = excluded.queue_name, priority = excluded.priority, options = excluded.options,
        cron = excluded.cron, every = excluded.every, time_zone = excluded.time_zone,
        missed = excluded.missed, missed_within = excluded.missed_within, overlap = excluded.overlap,
        is_declared = true, gone_at = NULL, seen = django_ray_seen(schedule.seen, excluded.seen -> 0)
    WHERE CASE
        WHEN counts THEN NOT schedule.is_declared OR schedule.gone_at IS NOT NULL OR schedule.seen -> -1 <> excluded.seen -> 0
        ELSE NOT schedule.seen ? (excluded.seen ->> 0)
    END;

    IF counts THEN
        UPDATE django_ray_schedule SET gone_at = statement_timestamp()
        WHERE backend = of_backend AND is_declared AND gone_at IS NULL
            AND name NOT IN (SELECT name FROM json_to_recordset(definitions) AS definition(name text));
    END IF;

    -- What others have made says what its task said then. As long as it does, it follows its task.
    UPDATE django_ray_schedule AS schedule SET
        queue_name = task.queue_name, priority = task.priority, options = task.options,
        seen = django_ray_seen(schedule.seen, task.head)
    FROM (
        SELECT *, jsonb_build_object('queue_name', queue_name, 'priority', priority, 'options', options) AS head
        FROM json_to_recordset(tasks) AS task(callable_path text, queue_name text, priority int2, options jsonb)
    ) AS task
    WHERE schedule.backend = of_backend AND NOT is_declared AND schedule.callable_path = task.callable_path
        AND schedule.seen -> -1 = jsonb_build_object(
            'queue_name', schedule.queue_name, 'priority', schedule.priority, 'options', schedule.options)
        AND schedule.seen -> -1 <> task.head
        AND (counts OR NOT EXISTS (SELECT FROM jsonb_array_elements(schedule.seen) AS before WHERE before = task.head));
END
$$;

-- It rings, as any row that becomes claimable.
UPDATE django_ray_execution SET state = 'READY' WHERE state = 'WAITING' AND gate IS NOT NULL;
