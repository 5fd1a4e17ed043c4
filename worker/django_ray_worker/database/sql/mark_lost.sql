-- A supervisor was found dead, and so many rows of it were taken back. Tells whether somebody has locked its row, so that
-- it could not be marked.
WITH free AS MATERIALIZED (
    SELECT id FROM django_ray_worker WHERE id = %(worker)s FOR NO KEY UPDATE SKIP LOCKED
), marked AS (
    UPDATE django_ray_worker SET
        lost_at = coalesce(lost_at, statement_timestamp()),
        rescued = least(rescued::bigint + %(rows)s, 2147483647)
    WHERE id = (SELECT id FROM free) AND stopped_at IS NULL AND (lost_at IS NULL OR %(rows)s > 0)
    RETURNING pg_notify(django_ray_channel('supervisors:' || backend), '')
)
SELECT EXISTS (SELECT FROM django_ray_worker WHERE id = %(worker)s) AND NOT EXISTS (SELECT FROM free) AS is_locked
