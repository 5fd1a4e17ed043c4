-- Write the verdicts of a batch, sorted by id. The fence (attempt and owner) is written so that only the primary key can
-- serve as a way in: a condition on state would invite the partial index of running rows, which is slow in a batch.
-- What was never begun leaves nothing that looks like an attempt. What would become READY again although somebody wants it cancelled is CANCELLED instead.
UPDATE django_ray_execution AS execution SET
    state = CASE
        WHEN verdict.state = 'READY' AND execution.cancel_requested_at IS NOT NULL THEN 'CANCELLED'
        ELSE verdict.state
    END,
    claimed_by_id = NULL,
    due_at = CASE
        WHEN execution.cancel_requested_at IS NULL THEN statement_timestamp() + make_interval(secs => verdict.after)
    END,
    finished_at = CASE
        WHEN verdict.state <> 'READY' OR execution.cancel_requested_at IS NOT NULL THEN statement_timestamp()
    END,
    result = verdict.result::jsonb,
    errors = CASE
        WHEN verdict.error IS NULL AND (verdict.state <> 'READY' OR execution.cancel_requested_at IS NULL)
            THEN execution.errors
        ELSE execution.errors || (coalesce(verdict.error, %(cancelled)s)::jsonb || jsonb_build_object(
            'attempt', jsonb_array_length(execution.worker_ids), 'worker_id', verdict.worker::text, 'at', statement_timestamp()))
    END,
    worker_ids = CASE WHEN verdict.unbegun THEN execution.worker_ids - -1 ELSE execution.worker_ids END,
    started_at = CASE
        WHEN verdict.unbegun AND jsonb_array_length(execution.worker_ids) = 1 THEN NULL ELSE execution.started_at
    END,
    last_attempted_at = CASE
        WHEN verdict.unbegun AND jsonb_array_length(execution.worker_ids) = 1 THEN NULL
        ELSE execution.last_attempted_at
    END,
    missing_since = CASE
        WHEN verdict.missing THEN coalesce(execution.missing_since, statement_timestamp())
        WHEN verdict.unbegun THEN execution.missing_since
    END,
    output = CASE WHEN verdict.unbegun THEN execution.output ELSE verdict.output END,
    failures = execution.failures + coalesce(verdict.failures, 0),
    losses = execution.losses + coalesce(verdict.losses, 0)
FROM json_to_recordset(%(verdicts)s::json) AS verdict(
    task_id uuid, attempt int, worker int, state text, result text, error text, after float8, failures int, losses int,
    unbegun boolean, missing boolean, output text
)
WHERE execution.task_id = verdict.task_id
    AND execution.attempt_number = verdict.attempt
    AND execution.claimed_by_id IS NOT DISTINCT FROM verdict.worker
RETURNING execution.task_id
