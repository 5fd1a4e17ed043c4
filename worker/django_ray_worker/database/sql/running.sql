-- What runs in the names of a supervisor, with the fence to record it. Of the options only what a loss asks for: no row may
-- make this statement fail, whatever somebody has written there.
SELECT
    execution.task_id, attempt_number, claimed_by_id, queue_name, left(callable_path, 1000) AS callable_path,
    CASE WHEN jsonb_typeof(options #> '{retry,max_losses}') = 'number' THEN
        jsonb_build_object('retry', jsonb_build_object('max_losses', options #> '{retry,max_losses}'))::text
    END AS options,
    failures, losses, released, NULL::float8 AS waited, NULL::float8 AS missing_for, '' AS payload,
    cancel_requested_at IS NOT NULL AS is_unwanted,
    EXISTS (
        SELECT FROM django_ray_queue AS queue
        WHERE queue.backend = execution.backend AND queue.name = execution.queue_name AND paused_at IS NOT NULL
    ) AS is_paused
FROM django_ray_execution AS execution
WHERE state = 'RUNNING' AND claimed_by_id = ANY (%(names)s::int[])
ORDER BY task_id
