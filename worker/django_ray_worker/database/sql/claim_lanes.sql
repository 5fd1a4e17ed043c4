-- As claim.sql, of lanes: from each as many as there is room for, as a JSON object says by the names of their tasks.
WITH found AS MATERIALIZED (
    SELECT * FROM django_ray_in_lanes(
        %(backend)s, %(queues)s, %(rooms)s::jsonb, %(most_lanes)s::int, %(limit)s::int, %(after_queue)s::text, %(after_gate)s::text)
), chosen AS MATERIALIZED (
    SELECT unnest(ids) AS task_id FROM found
), claimed AS (
-- part: taken
), facts AS (
    SELECT
        has_skipped, is_cut, queue AS after_queue, gate AS after_gate, to_json(more)::text AS more,
        (
            SELECT (extract(epoch FROM due_at) - extract(epoch FROM clock_timestamp()))::float8 FROM django_ray_execution
            WHERE backend = %(backend)s AND state = 'READY' AND due_at IS NOT NULL AND gate_rule ? 'lane'
            ORDER BY backend, due_at LIMIT 1
        ) AS next_due,
        (
            SELECT (extract(epoch FROM due_at) - extract(epoch FROM clock_timestamp()))::float8 FROM django_ray_execution
            WHERE backend = %(backend)s AND state = 'READY' AND due_at IS NOT NULL AND gate_rule ? 'lane'
                AND due_at > statement_timestamp()
            ORDER BY backend, due_at LIMIT 1
        ) AS next_later,
        least(65536, greatest(2048, 8388608 / nullif(cardinality(ids), 0))) AS most_bytes
    FROM found
    OFFSET 0  -- once, and not for each row that is taken
)
SELECT
    has_skipped, is_cut, next_due, next_later, more, after_queue, after_gate,
    task_id, attempt_number, claimed_by_id, queue_name, callable_path, failures, losses, released, waited, missing_for, lane,
    CASE WHEN octet_length(options) > 65536 THEN '' ELSE options END AS options,
    CASE WHEN octet_length(payload) <= most_bytes THEN payload END AS payload, %(backend)s::text AS backend
FROM facts LEFT JOIN claimed ON true
ORDER BY claimed.priority DESC, claimed.task_id
