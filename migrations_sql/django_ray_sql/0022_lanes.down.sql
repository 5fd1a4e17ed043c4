-- What waits in lanes is made claimable by the migration.
DROP TRIGGER django_ray_on_start ON django_ray_execution;
CREATE TRIGGER django_ray_on_start AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (NEW.gate IS NOT NULL AND OLD.state = 'WAITING' AND NEW.state = 'RUNNING')
EXECUTE FUNCTION django_ray_on_start();

DROP TRIGGER django_ray_on_place ON django_ray_execution;
CREATE TRIGGER django_ray_on_place AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (OLD.gate IS NOT NULL AND OLD.state = 'RUNNING' AND NEW.state <> 'RUNNING')
EXECUTE FUNCTION django_ray_on_place();

DROP FUNCTION django_ray_in_lanes(text, text[], jsonb, int, int, text, text);

CREATE OR REPLACE FUNCTION django_ray_on_pause() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.paused_at IS NULL THEN
        PERFORM django_ray_ring_queue(OLD.backend, OLD.name);
    ELSE
        PERFORM pg_notify(django_ray_channel('pauses:' || NEW.backend), '');
    END IF;
    PERFORM pg_notify(django_ray_channel('activity:' || coalesce(NEW.backend, OLD.backend)), '');
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION django_ray_on_update() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring_queue(NEW.backend, NEW.queue_name);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION django_ray_on_insert() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring_queue(backend, queue_name),
        CASE WHEN is_impatient THEN pg_notify(django_ray_channel('full:' || backend), '') END
    FROM (
        SELECT backend, queue_name, bool_or(gate_rule ? 'full') AS is_impatient FROM new_rows
        WHERE state = 'READY' OR state = 'WAITING' AND gate IS NOT NULL
        GROUP BY backend, queue_name
    ) AS queue;
    RETURN NULL;
END
$$;

-- They ring, as any row that becomes claimable; and run in slots.
UPDATE django_ray_execution SET
    state = CASE WHEN state = 'WAITING' AND gate IS NOT NULL THEN 'READY' ELSE state END, gate = NULL, gate_rule = NULL
WHERE gate_rule ? 'lane' AND finished_at IS NULL;
