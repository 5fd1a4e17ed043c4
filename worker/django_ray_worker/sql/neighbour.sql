-- The next supervisor of our backend in the ring, and whether its pulse has been missing for three periods.
SELECT id, pulse > 0 AND pulse_at < statement_timestamp() - make_interval(secs => 3 * pulse) AS is_frozen
FROM django_ray_worker
WHERE stopped_at IS NULL AND lost_at IS NULL AND id <> %(worker)s AND backend = %(backend)s
ORDER BY id < %(worker)s, id
LIMIT 1
