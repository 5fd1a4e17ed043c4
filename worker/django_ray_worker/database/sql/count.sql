-- Add what was counted to this minute, and tell whoever shows it. What is older than a day is folded into hours, and what is older than
-- a week goes. A few rows at a time, and only those that have just become so old: a look at all hours would cost more with each day.
WITH old AS (
    DELETE FROM django_ray_minute WHERE id = ANY (ARRAY(
        SELECT id FROM django_ray_minute
        WHERE minute < statement_timestamp() - interval '1 day' AND minute > statement_timestamp() - interval '26 hours'
            AND minute <> date_trunc('hour', minute, 'UTC')
        ORDER BY minute LIMIT 100 FOR UPDATE SKIP LOCKED
    ))
    RETURNING *
), written AS (
    INSERT INTO django_ray_minute
        (minute, backend, queue_name, worker_id, succeeded, failed, retried, cancelled, postponed, waited, longest_wait)
    -- An hour that is folded is no minute of today, so no row comes twice. In one order, or two supervisors would wait for each other.
    SELECT * FROM (
        SELECT date_trunc('minute', statement_timestamp()) AS minute, %(backend)s::text AS backend, queue_name, %(worker)s::int AS worker_id,
            succeeded, failed, retried, cancelled, postponed, waited, longest_wait
        FROM json_to_recordset(%(counts)s::json) AS counts(
            queue_name text, succeeded int, failed int, retried int, cancelled int, postponed int, waited float8,
            longest_wait float8
        )
        UNION ALL
        SELECT date_trunc('hour', minute, 'UTC'), backend, queue_name, worker_id,
            sum(succeeded)::int, sum(failed)::int, sum(retried)::int, sum(cancelled)::int, sum(postponed)::int,
            sum(waited), max(longest_wait)
        FROM old GROUP BY 1, 2, 3, 4
    ) AS counted
    ORDER BY minute, backend, queue_name, worker_id
    ON CONFLICT (minute, backend, queue_name, worker_id) DO UPDATE SET
        succeeded = django_ray_minute.succeeded + excluded.succeeded,
        failed = django_ray_minute.failed + excluded.failed,
        retried = django_ray_minute.retried + excluded.retried,
        cancelled = django_ray_minute.cancelled + excluded.cancelled,
        postponed = django_ray_minute.postponed + excluded.postponed,
        waited = django_ray_minute.waited + excluded.waited,
        longest_wait = greatest(django_ray_minute.longest_wait, excluded.longest_wait)
), expired AS (
    DELETE FROM django_ray_minute WHERE id = ANY (ARRAY(
        SELECT id FROM django_ray_minute WHERE minute < statement_timestamp() - interval '7 days'
        ORDER BY minute LIMIT 100 FOR UPDATE SKIP LOCKED
    ))
)
SELECT pg_notify(django_ray_channel('activity:' || %(backend)s), '')
