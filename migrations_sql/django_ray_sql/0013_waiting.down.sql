-- Before this there was no such state: what is in it would run too early.
DO $do$
BEGIN
    IF EXISTS (SELECT FROM django_ray_execution WHERE state = 'WAITING') THEN
        RAISE EXCEPTION 'There are executions in state WAITING, which the version before does not know.'
            USING HINT = 'Wait until none is left, or cancel them: manage.py django_ray_cancel --state WAITING';
    END IF;
END;
$do$;

CREATE OR REPLACE FUNCTION django_ray_cancel(id uuid) RETURNS boolean LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
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
