UPDATE django_ray_worker SET stopped_at = statement_timestamp() WHERE id = %(worker)s AND lost_at IS NULL
RETURNING pg_notify(django_ray_channel('supervisors:' || backend), '')
