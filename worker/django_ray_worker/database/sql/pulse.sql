-- A sign of life, unless somebody has locked our row, and a NOTIFY that must come back on the listening session. Says as well
-- what no one may have told us: that our row is gone, that we were found dead, what is claimable, what runs in our name and
-- whether some of it is unwanted, whether a schedule is overdue, and
-- what waits behind gates, has expired, or is late in a flow.
WITH own AS MATERIALIZED (
    SELECT id, lost_at IS NOT NULL AS is_lost FROM django_ray_worker
    WHERE id = %(worker)s AND hostname = %(hostname)s AND pid = %(pid)s AND backend = %(backend)s AND stopped_at IS NULL
), free AS MATERIALIZED (
    SELECT id FROM django_ray_worker WHERE id = (SELECT id FROM own) FOR NO KEY UPDATE SKIP LOCKED
), pulse AS (
    UPDATE django_ray_worker SET pulse_at = statement_timestamp() WHERE id = (SELECT id FROM free)
), echo AS MATERIALIZED (
    SELECT pg_notify(django_ray_channel('worker:' || %(worker)s::int), 'echo')
)
SELECT
    EXISTS (SELECT FROM own) AS is_registered,
    coalesce((SELECT is_lost FROM own), false) AS is_lost,
    EXISTS (SELECT FROM own) AND NOT EXISTS (SELECT FROM free) AS is_locked,
    (
        SELECT least(greatest(extract(epoch FROM clock_timestamp()) - extract(epoch FROM since), 0), 3153600000)::float8
        FROM django_ray_oldest(%(backend)s, %(queues)s) AS since WHERE since IS NOT NULL
    ) AS oldest,
    (
        SELECT count(*) FROM django_ray_execution WHERE state = 'RUNNING' AND claimed_by_id = ANY (%(names)s::int[])
    ) AS running,
    EXISTS (
        SELECT FROM django_ray_execution
        WHERE state = 'RUNNING' AND claimed_by_id = ANY (%(names)s::int[]) AND cancel_requested_at IS NOT NULL
    ) AS has_unwanted,
    EXISTS (
        SELECT FROM django_ray_schedule
        WHERE backend = %(backend)s AND paused_at IS NULL AND gone_at IS NULL
            AND (next_at < statement_timestamp() - interval '1 s' OR next_at IS NULL AND problem IS NULL)
    ) AS has_overdue,
    (
        SELECT count(*) FROM django_ray_schedule
        WHERE backend = %(backend)s AND paused_at IS NULL AND gone_at IS NULL AND problem IS NOT NULL
    )::int AS problems,
    EXISTS (
        SELECT FROM django_ray_execution WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL
    ) AS has_gated,
    EXISTS (
        SELECT FROM django_ray_execution WHERE backend = %(backend)s AND state = 'WAITING' AND gate_rule ? 'full'
    ) AS has_impatient,
    EXISTS (
        SELECT FROM django_ray_execution
        WHERE backend = %(backend)s AND expires_at <= statement_timestamp() AND expires_at IS NOT NULL AND started_at IS NULL
            AND state IN ('READY', 'WAITING')
    ) AS has_expired,
    EXISTS (SELECT FROM django_ray_edge WHERE is_late) AS has_late
FROM echo
