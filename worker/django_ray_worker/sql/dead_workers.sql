-- Supervisors of our backend, whose options decide, that never said goodbye, and whose session is gone or whose pulse has
-- been missing for three periods. Either one of them or all; all only when the server has been up for a while: after its
-- start everybody's session is gone for a moment.
SELECT id FROM django_ray_worker
WHERE stopped_at IS NULL AND lost_at IS NULL AND id <> %(worker)s AND backend = %(backend)s
    AND CASE
        WHEN %(only)s::int IS NULL THEN pg_postmaster_start_time() < statement_timestamp() - interval '10 s'
        ELSE id = %(only)s::int
    END
    AND ((pulse > 0 AND pulse_at < statement_timestamp() - make_interval(secs => 3 * pulse)) OR django_ray_is_dead(id))
ORDER BY id
