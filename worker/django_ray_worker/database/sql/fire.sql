-- Write what was decided about schedules, and enqueue their ticks: both or neither. Whoever writes a row first, as it was when it
-- was decided about, has fired; every other supervisor finds another version. A row that somebody has locked is left for later.
-- A transaction that has enqueued an equal execution, and is open, is not waited for long: then nothing is written at all.
-- Says how many were written, and how long it is until the next tick.
WITH patience AS MATERIALIZED (
    SELECT set_config('lock_timeout', '200ms', true)
), decision AS MATERIALIZED (
    SELECT decision.* FROM patience CROSS JOIN json_to_recordset(%(decisions)s::json) AS decision(
        id int, version text, ticks timestamptz[], next_at timestamptz, last_at timestamptz, lost int, problem text
    )
), free AS MATERIALIZED (
    SELECT
        decision.*,
        overlap = 'skip' AND cardinality(ticks) > 0 AND EXISTS (
            SELECT FROM django_ray_execution AS execution
            WHERE execution.schedule_id = schedule.id AND finished_at IS NULL
        ) AS is_busy
    FROM decision JOIN django_ray_schedule AS schedule USING (id)
    WHERE schedule.xmin::text = version AND paused_at IS NULL AND gone_at IS NULL
    ORDER BY schedule.id
    FOR NO KEY UPDATE OF schedule SKIP LOCKED
), moved AS (
    UPDATE django_ray_schedule AS schedule SET
        next_at = free.next_at,
        last_at = coalesce(free.last_at, schedule.last_at),
        problem = free.problem,
        lag = CASE
            WHEN is_busy OR cardinality(ticks) = 0 THEN lag
            ELSE extract(epoch FROM clock_timestamp() - ticks[cardinality(ticks)])
        END,
        skipped = least(skipped + CASE WHEN is_busy THEN cardinality(ticks) ELSE 0 END::bigint, 2147483647),
        lost = least(schedule.lost + free.lost::bigint, 2147483647)
    FROM free WHERE schedule.id = free.id AND schedule.xmin::text = free.version
    RETURNING schedule.id, schedule.next_at, schedule.lag, ticks, is_busy, free.lost
), enqueued AS MATERIALIZED (
    SELECT count(*) AS number FROM (
        SELECT array_agg(id ORDER BY tick, id) AS ids, array_agg(tick ORDER BY tick, id) AS ticks
        FROM moved CROSS JOIN LATERAL unnest(ticks) AS tick WHERE NOT is_busy
    ) AS due CROSS JOIN LATERAL django_ray_enqueue_ticks(due.ids, due.ticks)
)
SELECT
    (SELECT count(*) FROM moved) AS moved,
    (SELECT number FROM enqueued) AS enqueued,
    (SELECT coalesce(sum(cardinality(ticks)), 0) FROM moved WHERE is_busy)::int AS skipped,
    (SELECT coalesce(sum(lost), 0) FROM moved)::int AS lost,
    (SELECT max(lag) FROM moved WHERE NOT is_busy AND cardinality(ticks) > 0) AS lag,
    (
        SELECT extract(epoch FROM min(next_at)) - extract(epoch FROM clock_timestamp())
        FROM (
            SELECT next_at FROM moved
            UNION ALL
            SELECT coalesce(next_at, '-infinity') FROM django_ray_schedule
            WHERE backend = %(backend)s AND paused_at IS NULL AND gone_at IS NULL
                AND id <> ALL (%(besides)s::int[]) AND id NOT IN (SELECT id FROM moved)
        ) AS later
    )::float8 AS next_in
