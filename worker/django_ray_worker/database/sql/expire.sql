-- What has not begun by its time ends; how many have, in how many seconds the next one will, and whether there was any: if there
-- was, and none has ended, somebody has locked it.
SELECT django_ray_expire(%(backend)s) AS number, (
    SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM django_ray_execution
    WHERE backend = %(backend)s AND expires_at > statement_timestamp() AND expires_at IS NOT NULL AND started_at IS NULL
        AND state IN ('READY', 'WAITING')
    ORDER BY expires_at LIMIT 1
) AS next_in, EXISTS (
    SELECT FROM django_ray_execution
    WHERE backend = %(backend)s AND expires_at <= statement_timestamp() AND expires_at IS NOT NULL AND started_at IS NULL
        AND state IN ('READY', 'WAITING')
) AS was_due
