-- The functions and triggers of before. What waits behind gates is made claimable by the migration.
DROP FUNCTION django_ray_enqueue_admitted(text, json);
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
DROP TRIGGER django_ray_on_unique ON django_ray_execution;
DROP FUNCTION django_ray_on_unique();
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

-- It rings, as any row that becomes claimable.
UPDATE django_ray_execution SET state = 'READY' WHERE state = 'WAITING' AND gate IS NOT NULL;
