-- What waits for something else than time is cancelled as what is READY. The rest is as in 0004.
CREATE OR REPLACE FUNCTION django_ray_cancel(id uuid) RETURNS boolean LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
BEGIN ATOMIC
    UPDATE django_ray_execution SET
        state = CASE WHEN state IN ('WAITING', 'READY') THEN 'CANCELLED' ELSE state END,
        finished_at = CASE WHEN state IN ('WAITING', 'READY') THEN statement_timestamp() ELSE finished_at END,
        due_at = NULL,
        errors = CASE
            WHEN state IN ('WAITING', 'READY') THEN errors || jsonb_build_object(
                'exception_class_path', 'django_ray.exceptions.TaskCancelled',
                'message', 'The execution was cancelled.',
                'traceback', E'django_ray.exceptions.TaskCancelled: The execution was cancelled.\n',
                'attempt', jsonb_array_length(worker_ids), 'worker_id', NULL, 'at', statement_timestamp())
            ELSE errors
        END,
        cancel_requested_at = statement_timestamp()
    WHERE task_id = id AND state IN ('WAITING', 'READY', 'RUNNING')
    RETURNING true;
END;
