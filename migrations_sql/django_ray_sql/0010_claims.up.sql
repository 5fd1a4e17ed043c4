-- What few claims need to know. Functions, so that the others do not set it up: that took a third of the time of a claim.

-- Whether these queues have more that is claimable than what was taken.
CREATE FUNCTION django_ray_is_passed_over(of_backend text, given text[], taken uuid[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM unnest(given) AS queue
        CROSS JOIN LATERAL (
            SELECT task_id FROM django_ray_execution
            WHERE backend = of_backend AND queue_name = queue AND state = 'READY' AND due_at IS NULL
            ORDER BY priority DESC, task_id
            LIMIT coalesce(cardinality(taken), 0) + 1
        ) AS visible
        WHERE task_id <> ALL (coalesce(taken, '{}'))
    );
END
$$;

-- When the next row falls due that is not overdue, in these queues; NULL is any.
CREATE FUNCTION django_ray_later(of_backend text, given text[]) RETURNS timestamptz LANGUAGE plpgsql STABLE
SET search_path FROM CURRENT AS $$
BEGIN
    IF given IS NULL THEN
        RETURN (
            SELECT due_at FROM django_ray_execution
            WHERE backend = of_backend AND state = 'READY' AND due_at > statement_timestamp()
            ORDER BY due_at NULLS FIRST LIMIT 1
        );
    END IF;
    RETURN (
        SELECT min(due.due_at) FROM unnest(given) AS queue
        CROSS JOIN LATERAL (
            SELECT due_at FROM django_ray_execution
            WHERE backend = of_backend AND queue_name = queue AND state = 'READY' AND due_at > statement_timestamp()
            ORDER BY due_at LIMIT 1
        ) AS due
    );
END
$$;

-- Whether the texts of these values are together 64 KiB at most. The size of one is a look at its header, unless it is
-- compressed; then it is 255 times as large at most.
CREATE FUNCTION django_ray_is_small(
    args jsonb = NULL, kwargs jsonb = NULL, errors jsonb = NULL, worker_ids jsonb = NULL, options jsonb = NULL, carrier jsonb = NULL
) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN
        greatest(
            pg_column_size(args), pg_column_size(kwargs), pg_column_size(errors), pg_column_size(worker_ids),
            pg_column_size(options), pg_column_size(carrier)
        ) <= 65536
        AND coalesce(pg_column_size(args || '[]'), 0) + coalesce(pg_column_size(kwargs || '[]'), 0)
            + coalesce(pg_column_size(errors || '[]'), 0) + coalesce(pg_column_size(worker_ids || '[]'), 0)
            + coalesce(pg_column_size(options || '[]'), 0) + coalesce(pg_column_size(carrier || '[]'), 0) <= 65536;
END
$$;
