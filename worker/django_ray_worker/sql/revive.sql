-- A peer took our silence for death and returned our work. The fence guards what it took; we live on.
UPDATE django_ray_worker SET lost_at = NULL WHERE id = %(worker)s AND lost_at IS NOT NULL
