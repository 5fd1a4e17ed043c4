UPDATE django_ray_worker SET stopped_at = now() WHERE id = %(worker)s AND lost_at IS NULL
