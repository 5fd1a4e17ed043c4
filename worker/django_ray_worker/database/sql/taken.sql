    -- Part of claim.sql and claim_lanes.sql: the rows of chosen become ours.
    UPDATE django_ray_execution AS execution SET
        state = 'RUNNING',
        -- Whatever somebody has written there: no row may make this statement fail.
        attempt_number = least(attempt_number, 2147483646) + 1,
        claimed_by_id = %(worker)s,
        worker_ids = worker_ids || to_jsonb(%(worker)s::text),
        started_at = coalesce(started_at, statement_timestamp()),
        last_attempted_at = statement_timestamp()
    WHERE task_id = ANY (ARRAY(SELECT task_id FROM chosen))
    RETURNING
        task_id, priority, attempt_number, claimed_by_id, queue_name, failures, losses, released, gate AS lane,
        CASE WHEN octet_length(callable_path) <= 1000 THEN callable_path ELSE left(callable_path, 1000) END AS callable_path,
        -- Few bytes may be a long text, and a text of a gigabyte is an error: what is large is not printed. 256 bytes are 65,280 at
        -- most when they are compressed.
        CASE
            WHEN options IS NULL THEN NULL
            WHEN pg_column_size(options) <= 256 OR django_ray_is_small(options => options) THEN options::text
            ELSE ''
        END AS options,
        CASE WHEN attempt_number = 1 AND isfinite(greatest(enqueued_at, run_after))
            THEN extract(epoch FROM statement_timestamp() - greatest(enqueued_at, run_after))::float8
        END AS waited,
        CASE
            WHEN missing_since IS NULL THEN NULL
            WHEN isfinite(missing_since) THEN extract(epoch FROM statement_timestamp() - missing_since)::float8
            ELSE 'Infinity'
        END AS missing_for,
        CASE
            WHEN pg_column_size(args) + pg_column_size(kwargs) + pg_column_size(errors) + pg_column_size(worker_ids)
                    + coalesce(pg_column_size(options), 0) + coalesce(pg_column_size(carrier), 0) <= 256
                OR django_ray_is_small(args, kwargs, errors, worker_ids, options, carrier)
            THEN json_build_object(
                'task_id', task_id, 'state', state, 'backend', backend, 'queue_name', queue_name, 'priority', priority,
                'callable_path', callable_path, 'args', args, 'kwargs', kwargs, 'options', options,
                'run_after', run_after, 'enqueued_at', enqueued_at, 'started_at', started_at,
                'last_attempted_at', last_attempted_at, 'attempt_number', attempt_number, 'failures', failures,
                'worker_ids', worker_ids, 'errors', errors, 'carrier', carrier
            )::text
        END AS payload
