UPDATE django_ray_worker SET lost_at = statement_timestamp() WHERE id = %(worker)s AND stopped_at IS NULL AND lost_at IS NULL
RETURNING pg_notify(django_ray_channel('supervisors:' || backend), '')
