-- Schedules: what is enqueued by itself. When one is due is computed by supervisors, in Python; here is what must hold whoever
-- writes a row. A channel without a key: 'schedules:<backend>', for supervisors: look when the next one is due.

-- Ticks count from now on when a schedule is new, says when in another way, or goes on after a pause. So saving one fires nothing.
CREATE FUNCTION django_ray_on_schedule() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    NEW.since := clock_timestamp();
    NEW.last_at := NULL;
    NEW.next_at := NULL;
    NEW.problem := NULL;
    RETURN NEW;
END
$$;

CREATE TRIGGER django_ray_on_schedule BEFORE INSERT ON django_ray_schedule
FOR EACH ROW EXECUTE FUNCTION django_ray_on_schedule();

CREATE TRIGGER django_ray_on_reschedule BEFORE UPDATE ON django_ray_schedule
FOR EACH ROW WHEN (
    (NEW.backend, NEW.cron, NEW.every, NEW.time_zone) IS DISTINCT FROM (OLD.backend, OLD.cron, OLD.every, OLD.time_zone)
    OR (NEW.paused_at IS NULL AND NEW.gone_at IS NULL AND (OLD.paused_at IS NOT NULL OR OLD.gone_at IS NOT NULL))
) EXECUTE FUNCTION django_ray_on_schedule();

-- Tell the supervisors, and whoever shows it. What a supervisor writes after a tick tells nobody: the others wake at that tick anyway.
CREATE FUNCTION django_ray_on_scheduled() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify(django_ray_channel('schedules:' || NEW.backend), ''),
        pg_notify(django_ray_channel('activity:' || NEW.backend), '');
    RETURN NULL;
END
$$;

CREATE TRIGGER django_ray_on_scheduled AFTER INSERT ON django_ray_schedule
FOR EACH ROW EXECUTE FUNCTION django_ray_on_scheduled();

CREATE TRIGGER django_ray_on_rescheduled AFTER UPDATE ON django_ray_schedule
FOR EACH ROW WHEN (
    NEW.since IS DISTINCT FROM OLD.since OR NEW.next_at < OLD.next_at
    OR NEW.paused_at IS DISTINCT FROM OLD.paused_at OR NEW.gone_at IS DISTINCT FROM OLD.gone_at
) EXECUTE FUNCTION django_ray_on_scheduled();

-- The executions of ticks, in their order: of each pair the schedule and when it was due. What is there already is not returned.
CREATE FUNCTION django_ray_enqueue_ticks(schedules int[], ticks timestamptz[])
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

-- What has been seen before, and something new as the latest. Twenty are enough for whatever versions still run.
CREATE FUNCTION django_ray_seen(before jsonb, latest jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT coalesce(jsonb_agg(element ORDER BY place), '[]')
    FROM (
        SELECT element, place FROM jsonb_array_elements(before) WITH ORDINALITY AS seen(element, place)
        WHERE element <> latest
        ORDER BY place DESC LIMIT 19
    ) AS kept
) || jsonb_build_array(latest);

-- Apply what the code declares to the schedules of a backend. Processes of two versions may run side by side, and each may start
-- again at any time. So a definition is applied when its schedule has never seen it, and one that has been replaced does not come
-- back by itself. Only where the code counts, which is in migrate, it is applied in any case, and what is not declared ends.
-- What staff has changed stays as it is until the definition changes; a pause stays.
CREATE FUNCTION django_ray_declare(of_backend text, definitions json, tasks json, counts boolean) RETURNS void
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
