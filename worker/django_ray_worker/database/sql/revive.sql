-- A new session is a sign of life. If a peer took our silence for death, it has returned our work, which the fence guards,
-- and the ring closed behind us: tell the others that we are back.
-- Tells whether somebody has locked our row, so that nothing could be said.
WITH before AS MATERIALIZED (
    SELECT id, backend, lost_at FROM django_ray_worker WHERE id = %(worker)s FOR NO KEY UPDATE SKIP LOCKED
), revived AS (
    UPDATE django_ray_worker SET pulse_at = statement_timestamp(), lost_at = NULL WHERE id = (SELECT id FROM before)
), told AS MATERIALIZED (
    SELECT pg_notify(django_ray_channel('supervisors:' || backend), '') FROM before WHERE lost_at IS NOT NULL
)
SELECT EXISTS (SELECT FROM django_ray_worker WHERE id = %(worker)s) AND NOT EXISTS (SELECT FROM before) AS is_locked
FROM (SELECT count(*) FROM told) AS done
