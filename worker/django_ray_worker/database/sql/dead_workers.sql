-- Supervisors of our backend, whose options decide, that never said goodbye or have left executions running, and whose
-- session is gone or whose pulse has been missing for three periods. Either one of them or all; all only when the server has
-- been up for a while: after its start everybody's session is gone for a moment. A pulse that a lock on the row keeps from being
-- written says nothing.
SELECT member.id FROM django_ray_members(%(backend)s) AS member(id)
LEFT JOIN django_ray_worker AS worker ON worker.id = member.id
WHERE member.id <> %(worker)s
    AND CASE
        WHEN %(only)s::int IS NULL THEN pg_postmaster_start_time() < statement_timestamp() - interval '10 s'
        ELSE member.id = %(only)s::int
    END
    AND (
        (
            worker.pulse > 0 AND worker.pulse_at < statement_timestamp() - make_interval(secs => 3 * least(worker.pulse, 1e9))
            AND EXISTS (SELECT FROM django_ray_worker AS own WHERE own.id = worker.id FOR NO KEY UPDATE SKIP LOCKED)
        )
        OR django_ray_is_dead(member.id)
    )
ORDER BY member.id
