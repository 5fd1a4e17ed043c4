-- Supervisors of our backend, whose options decide, that never said goodbye and whose session is gone.
SELECT id FROM django_ray_worker
WHERE stopped_at IS NULL AND lost_at IS NULL AND id <> %(worker)s AND backend = %(backend)s AND django_ray_is_dead(id)
ORDER BY id
