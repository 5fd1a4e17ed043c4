-- The next supervisor of our backend in the ring, and whether its pulse has been missing for three periods. Those besides are
-- dead, and we are not done with them yet.
SELECT
    member.id,
    coalesce(pulse > 0 AND pulse_at < statement_timestamp() - make_interval(secs => 3 * least(pulse, 1e9)), false) AS is_frozen
FROM django_ray_members(%(backend)s) AS member(id)
LEFT JOIN django_ray_worker AS worker ON worker.id = member.id
WHERE member.id <> ALL (%(names)s::int[]) AND member.id <> ALL (%(besides)s::int[])
ORDER BY member.id < %(worker)s, member.id
LIMIT 1
