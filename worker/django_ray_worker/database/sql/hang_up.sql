-- The server has not noticed yet that a session of ours is dead: it still holds our identity. Sessions belong to the role that
-- logged in, so whoever has SET ROLE goes back to that one for this statement.
SELECT CASE WHEN set_config('role', 'none', true) = 'none' THEN pg_terminate_backend(pid) END
FROM django_ray_session(%(worker)s) AS pid WHERE pid = ANY (%(sessions)s::int[])
