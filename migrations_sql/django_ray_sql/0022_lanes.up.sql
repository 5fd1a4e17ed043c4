-- Lanes: what does not run in a slot, which is a CPU, but in places of its own: those of a GPU, or of a worker that stays. docs/architecture.md tells how
-- they fit together.
--
-- A lane is a gate through which nobody is let as through others: its name begins with an exclamation mark, its rule is {"limit": 0, "lane": true}.
-- Supervisors that know of no lanes leave it alone; others take from it what they have places for there. One more bell, 'queue:<backend>:!lanes', rung by
-- whoever may ring for a queue: something has come in a lane.

-- As before; and who waits for what is in lanes hears of it, also without a free slot.
CREATE OR REPLACE FUNCTION django_ray_on_insert() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring_queue(backend, queue_name),
        CASE WHEN has_lane THEN django_ray_ring_queue(backend, '!lanes') END,
        CASE WHEN is_impatient THEN pg_notify(django_ray_channel('full:' || backend), '') END
    FROM (
        SELECT backend, queue_name, bool_or(gate_rule ? 'full') AS is_impatient, bool_or(gate_rule ? 'lane') AS has_lane
        FROM new_rows
        WHERE state = 'READY' OR state = 'WAITING' AND gate IS NOT NULL
        GROUP BY backend, queue_name
    ) AS queue;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION django_ray_on_update() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring_queue(NEW.backend, NEW.queue_name);
    IF NEW.gate_rule ? 'lane' THEN
        PERFORM django_ray_ring_queue(NEW.backend, '!lanes');
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION django_ray_on_pause() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.paused_at IS NULL THEN
        PERFORM django_ray_ring_queue(OLD.backend, OLD.name), django_ray_ring_queue(OLD.backend, '!lanes');
    ELSE
        PERFORM pg_notify(django_ray_channel('pauses:' || NEW.backend), '');
    END IF;
    PERFORM pg_notify(django_ray_channel('activity:' || coalesce(NEW.backend, OLD.backend)), '');
    RETURN NULL;
END
$$;

-- What starts and ends in lanes concerns no gate.
DROP TRIGGER django_ray_on_place ON django_ray_execution;
CREATE TRIGGER django_ray_on_place AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (OLD.gate IS NOT NULL AND OLD.state = 'RUNNING' AND NEW.state <> 'RUNNING' AND (OLD.gate_rule ? 'lane') IS NOT TRUE)
EXECUTE FUNCTION django_ray_on_place();

DROP TRIGGER django_ray_on_start ON django_ray_execution;
CREATE TRIGGER django_ray_on_start AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (NEW.gate IS NOT NULL AND OLD.state = 'WAITING' AND NEW.state = 'RUNNING' AND (NEW.gate_rule ? 'lane') IS NOT TRUE)
EXECUTE FUNCTION django_ray_on_start();

-- Rows to take from lanes of our queues, in a circle from a place on, up to so many lanes and rows in all. A name has the task, and perhaps a colon and what
-- those have in common that share a call. rooms says by tasks for how many calls there is room, and how many share one: {"!shop.tasks.embed": [2, 64]}; for
-- others it is one of one. The rows are locked until the transaction ends.
-- With them: the tasks of which there may be more than that; whether some were locked by somebody else; whether not all lanes were looked into; and the
-- last one that something was taken from.
CREATE FUNCTION django_ray_in_lanes(
    of_backend text, given text[], rooms jsonb, most_lanes int, most int, after_queue text, after_gate text
)
RETURNS TABLE (ids uuid[], more text[], has_skipped boolean, is_cut boolean, queue text, gate text)
-- Every look is one probe of django_ray_lanes. All of its columns are named in their order, and nothing is sorted, so that no plan without
-- statistics takes another index.
LANGUAGE plpgsql VOLATILE ROWS 1 SET search_path FROM CURRENT SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
    from_queue text := coalesce(after_queue, '');
    from_gate text := coalesce(after_gate, '');
    has_turned boolean := from_queue = '';
    task text;
    calls int;
    batch int;
    room int;
    chosen uuid[];
    number int := 0;
    one record;
BEGIN
    ids := '{}';
    more := '{}';
    has_skipped := false;
    is_cut := false;
    LOOP
        SELECT row.queue_name::text AS queue, row.gate::text AS gate INTO one FROM django_ray_execution AS row
        WHERE row.backend = of_backend AND row.state = 'WAITING' AND row.gate IS NOT NULL AND row.gate_rule ? 'lane'
            AND (row.queue_name, row.gate) > (from_queue COLLATE "C", from_gate COLLATE "C")
        ORDER BY row.backend, row.queue_name, row.gate, row.priority DESC, row.task_id LIMIT 1;
        IF NOT FOUND THEN
            EXIT WHEN has_turned;
            has_turned := true;
            from_queue := '';
            from_gate := '';
            CONTINUE;
        END IF;
        from_queue := one.queue;
        from_gate := one.gate;
        EXIT WHEN has_turned AND after_queue IS NOT NULL
            AND (from_queue COLLATE "C", from_gate COLLATE "C") > (after_queue COLLATE "C", after_gate COLLATE "C");
        IF number >= most_lanes OR cardinality(ids) >= most THEN
            is_cut := true;
            EXIT;
        END IF;
        CONTINUE WHEN from_queue <> ALL (given) OR EXISTS (
            SELECT FROM django_ray_queue WHERE backend = of_backend AND name = from_queue COLLATE "C" AND paused_at IS NOT NULL
        );
        task := split_part(from_gate, ':', 1);
        calls := coalesce((rooms #> ARRAY[task, '0'])::int, 1);
        batch := coalesce((rooms #> ARRAY[task, '1'])::int, 1);
        IF calls <= 0 THEN
            more := more || task;
            CONTINUE;
        END IF;
        number := number + 1;
        room := least(most - cardinality(ids), calls * batch);
        chosen := ARRAY(
            SELECT row.task_id FROM django_ray_execution AS row
            WHERE row.backend = of_backend AND row.state = 'WAITING' AND row.gate IS NOT NULL AND row.gate_rule ? 'lane'
                AND row.queue_name = from_queue COLLATE "C" AND row.gate = from_gate COLLATE "C"
                AND (row.expires_at IS NULL OR row.expires_at > statement_timestamp() OR row.started_at IS NOT NULL)
            ORDER BY row.backend, row.queue_name, row.gate, row.priority DESC, row.task_id
            LIMIT room
            FOR UPDATE SKIP LOCKED
        );
        IF cardinality(chosen) >= room THEN
            more := more || task;
        ELSE
            has_skipped := has_skipped OR EXISTS (
                SELECT FROM (
                    SELECT row.task_id FROM django_ray_execution AS row
                    WHERE row.backend = of_backend AND row.state = 'WAITING' AND row.gate IS NOT NULL AND row.gate_rule ? 'lane'
                        AND row.queue_name = from_queue COLLATE "C" AND row.gate = from_gate COLLATE "C"
                        AND (row.expires_at IS NULL OR row.expires_at > statement_timestamp() OR row.started_at IS NOT NULL)
                    ORDER BY row.backend, row.queue_name, row.gate, row.priority DESC, row.task_id
                    LIMIT room
                ) AS head
                WHERE head.task_id <> ALL (chosen)
            );
        END IF;
        CONTINUE WHEN cardinality(chosen) = 0;
        calls := calls - (cardinality(chosen) + batch - 1) / batch;
        rooms := rooms || jsonb_build_object(task, jsonb_build_array(calls, batch));
        ids := ids || chosen;
        queue := from_queue;
        gate := from_gate;
    END LOOP;
    RETURN NEXT;
END
$$;
