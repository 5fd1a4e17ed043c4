UPDATE django_ray_worker SET lost_at = now() WHERE id = %(worker)s AND stopped_at IS NULL AND lost_at IS NULL
