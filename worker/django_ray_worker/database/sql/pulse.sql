-- A sign of life, and a NOTIFY that must come back on the listening session. Says as well what no one may have told us:
-- that we were found dead, what is claimable, what runs in our name and whether some of it is unwanted.
WITH pulse AS (
    UPDATE django_ray_worker SET pulse_at = statement_timestamp() WHERE id = %(worker)s
    RETURNING lost_at IS NOT NULL AS is_lost, pg_notify(django_ray_channel('worker:' || id), 'echo')
)
SELECT
    coalesce((SELECT is_lost FROM pulse), false) AS is_lost,
    extract(epoch FROM clock_timestamp() - django_ray_oldest(%(backend)s, %(queues)s))::float8 AS oldest,
    (SELECT count(*) FROM django_ray_execution WHERE state = 'RUNNING' AND claimed_by_id = %(worker)s) AS running,
    EXISTS (
        SELECT FROM django_ray_execution
        WHERE state = 'RUNNING' AND claimed_by_id = %(worker)s AND cancel_requested_at IS NOT NULL
    ) AS has_unwanted
