-- Write the verdicts of a batch, sorted by id. The fence (attempt and owner) is written so that only the primary key can
-- serve as a way in: a condition on state would invite the partial index of running rows, which is slow in a batch.
-- A row that somebody else has locked is waited for as long as patience says. To lock the rows first, and skip such a row, would
-- cost a fifth more; lock.sql does that when there is one.
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
        ELSE CASE
            WHEN jsonb_array_length(execution.errors) < 3 AND pg_column_size(execution.errors) < 1000000 THEN execution.errors
            -- Bounded in sum: the last three are whole, older ones are shortened, and a hundred are enough.
            ELSE coalesce((
                SELECT jsonb_agg(
                    CASE
                        WHEN pg_column_size(element) <= CASE WHEN age < 2 THEN 500000 ELSE 5000 END THEN element
                        WHEN jsonb_typeof(element) = 'object' THEN (
                            SELECT jsonb_object_agg(key, CASE
                                WHEN pg_column_size(value) <= 2000 THEN value
                                WHEN jsonb_typeof(value) = 'string'
                                    THEN to_jsonb(left(value #>> '{}', 1000) || E'\n...\n' || right(value #>> '{}', 1000))
                            END)
                            FROM jsonb_each(element)
                            WHERE key IN ('exception_class_path', 'message', 'traceback', 'attempt', 'worker_id', 'at')
                        )
                    END ORDER BY age DESC
                )
                FROM (
                    SELECT element, jsonb_array_length(execution.errors) - place AS age
                    FROM jsonb_array_elements(execution.errors) WITH ORDINALITY AS kept(element, place)
                ) AS kept
                WHERE age < 99
            ), '[]')
        END || (coalesce(verdict.error, %(cancelled)s)::jsonb || jsonb_build_object(
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
        WHEN verdict.missing THEN least(execution.missing_since, statement_timestamp())
        WHEN verdict.unbegun THEN execution.missing_since
    END,
    released = coalesce(verdict.released, 0),
    output = CASE WHEN verdict.unbegun THEN execution.output ELSE verdict.output END,
    failures = least(execution.failures + coalesce(verdict.failures, 0)::bigint, 2147483647),
    losses = least(execution.losses + coalesce(verdict.losses, 0)::bigint, 2147483647)
FROM json_to_recordset(
    -- Set before the first row is met; it ends with the statement, or the transaction.
    CASE WHEN set_config('lock_timeout', coalesce(%(patience)s, current_setting('lock_timeout')), true) IS NOT NULL
        THEN %(verdicts)s::json
    END
) AS verdict(
    task_id uuid, attempt int, worker int, state text, result text, error text, after float8, failures int, losses int,
    unbegun boolean, missing boolean, released int, output text
)
WHERE execution.task_id = verdict.task_id
    AND execution.attempt_number = verdict.attempt
    AND execution.claimed_by_id IS NOT DISTINCT FROM verdict.worker
RETURNING execution.task_id
