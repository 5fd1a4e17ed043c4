-- The server has not noticed yet that our last session is dead: it still holds our identity. Sessions belong to the role that
-- logged in, so whoever has SET ROLE goes back to that one for this statement.
SELECT CASE WHEN set_config('role', 'none', true) = 'none' THEN pg_terminate_backend(pid) END FROM pg_locks
WHERE locktype = 'advisory' AND classid = 1145721435 AND objid = %(worker)s::int::oid AND granted AND pid = %(session)s
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
