-- Whether a session is us, and the next supervisor of our backend in the ring with whether its pulse has been missing for three
-- periods. Those besides are dead, and we are not done with them yet.
SELECT
    NOT django_ray_is_dead(%(worker)s) AS has_us,
    next.id AS neighbour,
    coalesce(pulse > 0 AND pulse_at < statement_timestamp() - make_interval(secs => 3 * least(pulse, 1e9)), false) AS is_frozen
FROM (SELECT) AS always
LEFT JOIN LATERAL (
    SELECT member.id FROM django_ray_members(%(backend)s) AS member(id)
    WHERE member.id <> ALL (%(names)s::int[]) AND member.id <> ALL (%(besides)s::int[])
    ORDER BY member.id < %(worker)s, member.id
    LIMIT 1
) AS next ON true
LEFT JOIN django_ray_worker AS worker ON worker.id = next.id
