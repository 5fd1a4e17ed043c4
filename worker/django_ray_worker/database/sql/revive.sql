-- A new session is a sign of life. If a peer took our silence for death, it has returned our work, which the fence guards,
-- and the ring closed behind us: tell the others that we are back.
WITH before AS (
    SELECT id, backend, lost_at FROM django_ray_worker WHERE id = %(worker)s FOR UPDATE
), revived AS (
    UPDATE django_ray_worker SET pulse_at = statement_timestamp(), lost_at = NULL WHERE id = %(worker)s
)
SELECT pg_notify(django_ray_channel('supervisors:' || backend), '') FROM before WHERE lost_at IS NOT NULL
