-- A new session is a sign of life. If a peer took our silence for death, it has returned our work: the fence guards that.
UPDATE django_ray_worker SET pulse_at = statement_timestamp(), lost_at = NULL WHERE id = %(worker)s
