-- Cancel one execution unless it is finished; true when it was not. What ExecutionQuerySet.cancel() does, but with the
-- rights of the owner: a web process may call this, and so needs none to write states or errors.
-- The body is bound to its table here, not found by the caller's search_path, so that nobody can slip another one under it.
CREATE FUNCTION django_ray_cancel(id uuid) RETURNS boolean LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
BEGIN ATOMIC
    UPDATE django_ray_execution SET
        state = CASE WHEN state = 'READY' THEN 'CANCELLED' ELSE state END,
        finished_at = CASE WHEN state = 'READY' THEN statement_timestamp() ELSE finished_at END,
        due_at = NULL,
        errors = CASE
            WHEN state = 'READY' THEN errors || jsonb_build_object(
                'exception_class_path', 'django_ray.exceptions.TaskCancelled',
                'message', 'The execution was cancelled.',
                'traceback', E'django_ray.exceptions.TaskCancelled: The execution was cancelled.\n',
                'attempt', jsonb_array_length(worker_ids), 'worker_id', NULL, 'at', statement_timestamp())
            ELSE errors
        END,
        cancel_requested_at = statement_timestamp()
    WHERE task_id = id AND state IN ('READY', 'RUNNING')
    RETURNING true;
END;

-- PostgreSQL lets everybody call a new function.
REVOKE EXECUTE ON FUNCTION django_ray_cancel(uuid) FROM PUBLIC;
