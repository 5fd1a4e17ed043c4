-- What runs in the name of a supervisor, with the fence to record it.
SELECT
    execution.task_id, attempt_number, claimed_by_id, queue_name, callable_path, options, failures, losses,
    NULL::float8 AS waited, extract(epoch FROM statement_timestamp() - missing_since)::float8 AS missing_for, '' AS payload,
    cancel_requested_at IS NOT NULL AS is_unwanted,
    EXISTS (
        SELECT FROM django_ray_queue AS queue
        WHERE queue.backend = execution.backend AND queue.name = execution.queue_name AND paused_at IS NOT NULL
    ) AS is_paused
FROM django_ray_execution AS execution
WHERE state = 'RUNNING' AND claimed_by_id = %(worker)s
ORDER BY task_id
