-- A sign of life, and a NOTIFY that must come back on the listening session.
UPDATE django_ray_worker SET pulse_at = statement_timestamp() WHERE id = %(worker)s
RETURNING lost_at IS NOT NULL AS is_lost, pg_notify(django_ray_channel('worker:' || id), 'echo')
