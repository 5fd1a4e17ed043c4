-- Enqueue calls, in their order, in the caller's transaction; from Django or from anything that speaks SQL. Each call is an
-- object {"callable_path": ..., "queue_name": ..., "priority": ..., "args": [...], "kwargs": {...}, "options": {...},
-- "carrier": {...}, "moment": ..., "delay": ...}. What is left out has the table's default; at most one of moment and delay says when it may
-- start. A function, because a session parses and plans the INSERT once then, and a client sends one text.
CREATE FUNCTION django_ray_enqueue(of_backend text, calls json)
RETURNS TABLE (task_id uuid, enqueued_at timestamptz, run_after timestamptz) LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    INSERT INTO django_ray_execution AS execution
        (backend, queue_name, priority, callable_path, args, kwargs, options, carrier, enqueued_at, run_after, due_at)
    SELECT
        of_backend, coalesce(queue_name, 'default'), coalesce(priority, 0), callable_path, coalesce(args, '[]'),
        coalesce(kwargs, '{}'), options, carrier, statement_timestamp(),
        coalesce(moment, statement_timestamp() + delay), coalesce(moment, statement_timestamp() + delay)
    FROM ROWS FROM (
        json_to_recordset(calls) AS (
            queue_name text, priority int2, callable_path text, args jsonb, kwargs jsonb, options jsonb,
            carrier jsonb, moment timestamptz, delay interval
        )
    ) WITH ORDINALITY
        AS call(queue_name, priority, callable_path, args, kwargs, options, carrier, moment, delay, place)
    ORDER BY place
    RETURNING execution.task_id, execution.enqueued_at, execution.run_after;
END
$$;
