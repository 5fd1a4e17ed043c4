-- The next supervisor of our backend in the ring, and whether its pulse has been missing for three periods.
SELECT
    member.id,
    coalesce(pulse > 0 AND pulse_at < statement_timestamp() - make_interval(secs => 3 * pulse), false) AS is_frozen
FROM django_ray_members(%(backend)s) AS member(id)
LEFT JOIN django_ray_worker AS worker ON worker.id = member.id
WHERE member.id <> %(worker)s
ORDER BY member.id < %(worker)s, member.id
LIMIT 1
