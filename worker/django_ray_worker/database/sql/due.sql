-- Schedules of our backend that something is to be decided about, by their ids, and how long it is until the next tick. Those
-- besides cannot be read here. Everything is returned where all of them are to be looked at again. Whatever anybody has written:
-- moments are numbers, long texts are cut.
WITH active AS MATERIALIZED (
    SELECT id, next_at FROM django_ray_schedule
    WHERE backend = %(backend)s AND paused_at IS NULL AND gone_at IS NULL AND id <> ALL (%(besides)s::int[])
), chosen AS (
    SELECT id, next_at FROM active
    WHERE id > %(after)s AND (%(everything)s OR next_at IS NULL OR next_at <= statement_timestamp())
    ORDER BY id
    LIMIT %(limit)s
)
SELECT
    facts.*, schedule.id, schedule.xmin::text AS version, left(schedule.name, 255) AS name,
    left(callable_path, 500) AS callable_path, left(cron, 300) AS cron, left(time_zone, 300) AS time_zone,
    greatest(-4e9, least(4e9, extract(epoch FROM every)))::float8 AS every,
    greatest(-4e9, least(4e9, extract(epoch FROM missed_within)))::float8 AS missed_within,
    (every IS NOT NULL) AS has_every, (missed_within IS NOT NULL) AS has_missed_within,
    missed, extract(epoch FROM greatest(since, last_at))::float8 AS since,
    extract(epoch FROM chosen.next_at)::float8 AS next_at, left(problem, 2000) AS problem
FROM (
    SELECT
        extract(epoch FROM statement_timestamp())::float8 AS now,
        (
            SELECT extract(epoch FROM min(next_at)) - extract(epoch FROM statement_timestamp()) FROM active
            WHERE next_at > statement_timestamp()
        )::float8 AS next_in
    OFFSET 0
) AS facts
LEFT JOIN (chosen JOIN django_ray_schedule AS schedule USING (id)) ON true
ORDER BY schedule.id
