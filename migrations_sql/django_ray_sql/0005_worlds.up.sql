-- Keys and channels belong to these tables: two projects in two schemas of one database do not meet. What tells them apart is
-- the oid of django_ray_execution. A function in SQL is bound to its table when it is made, not by anybody's search_path.
--
-- Supervisors live while this runs, and enqueuers write. What has rung by the old keys would not be waited for by who falls
-- asleep by the new ones, so it has ended before: nothing is written from here until this is committed. In short tries,
-- because whoever comes after us waits behind us.
DO $do$
DECLARE
    seconds float8 := 0.1;
    ours text := current_setting('lock_timeout');
    others text;
BEGIN
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', (seconds * 1000)::int::text, true);
            LOCK TABLE django_ray_execution, django_ray_queue IN SHARE ROW EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > transaction_timestamp() + interval '2 minutes' THEN
                SELECT string_agg(DISTINCT pid::text, ', ') INTO others FROM pg_locks
                WHERE relation IN ('django_ray_execution'::regclass, 'django_ray_queue'::regclass) AND granted
                    AND mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock',
                        'ExclusiveLock', 'AccessExclusiveLock');
                RAISE EXCEPTION 'Transactions that have written to django_ray_execution or django_ray_queue do not end.'
                    USING DETAIL = format('Server processes: %s.', others),
                    HINT = 'Wait for their end, or end them with pg_terminate_backend(); then migrate again.';
            END IF;
        END;
        PERFORM pg_sleep(5 * seconds);
        -- Above deadlock_timeout in the end, so that an autovacuum gives way.
        seconds := least(2 * seconds, 3);
    END LOOP;
    PERFORM set_config('lock_timeout', ours, true);
END
$do$;

-- Delivered when this is committed, on the channels that they listen to now: each looks for its neighbour, finds that its
-- session is nobody's, and begins another one.
SELECT pg_notify(django_ray_channel('supervisors:' || backend), '')
FROM (SELECT DISTINCT backend FROM django_ray_worker WHERE stopped_at IS NULL) AS living;

-- Neither is STRICT any more: PostgreSQL would not make them a part of the expressions of their callers then, and they would
-- cost each enqueue some microseconds.
CREATE OR REPLACE FUNCTION django_ray_channel(bell text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN octet_length('django_ray:' || 'django_ray_execution'::regclass::oid::text || ':' || bell) <= 63
        THEN 'django_ray:' || 'django_ray_execution'::regclass::oid::text || ':' || bell
    ELSE 'django_ray#' || 'django_ray_execution'::regclass::oid::text || ':'
        || to_hex(hashtextextended(bell, 0)) || to_hex(hashtextextended(bell, 1))
END;

CREATE OR REPLACE FUNCTION django_ray_key(bell text) RETURNS int LANGUAGE sql STABLE PARALLEL SAFE
RETURN hashtext(django_ray_channel(bell));

-- Ring both bells of a queue: for a transaction that has put work behind them. Never waits. Each bell is a lock of the server until
-- the transaction ends, and the server has room for some thousands. So from the 129th time on a transaction notifies without
-- looking, which loses nothing. It counts in a setting of its own.
CREATE OR REPLACE FUNCTION django_ray_ring_queue(backend text, queue_name text) RETURNS void LANGUAGE plpgsql VOLATILE
SET search_path FROM CURRENT AS $$
DECLARE
    rung int := coalesce(nullif(current_setting('django_ray.rung', true), '')::int, 0);
    channel text;
    k int;
BEGIN
    IF rung < 128 THEN
        PERFORM set_config('django_ray.rung', (rung + 1)::text, true);
    END IF;
    FOREACH channel IN ARRAY ARRAY[
        django_ray_channel('queue:' || backend || ':' || queue_name), django_ray_channel('queues:' || backend)
    ] LOOP
        k := hashtext(channel);
        -- Taking and releasing ASLEEP is one expression: between two statements a query cancel would leave the session
        -- lock behind, and nobody could announce any more.
        IF (CASE
                WHEN rung >= 128 THEN true
                WHEN NOT pg_try_advisory_xact_lock_shared(1145721433, k) THEN true
                WHEN pg_try_advisory_lock(1145721434, k) THEN NOT pg_advisory_unlock(1145721434, k)
                ELSE true
            END)
        THEN
            PERFORM pg_notify(channel, '');
        END IF;
    END LOOP;
END
$$;

-- The identity of supervisor n is the lock (1145721435 # oid, n): exact, because a collision would keep one of two out.
CREATE OR REPLACE FUNCTION django_ray_identify(worker int) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_try_advisory_lock(1145721435 # 'django_ray_execution'::regclass::oid::int, worker);

CREATE OR REPLACE FUNCTION django_ray_is_dead(worker int) RETURNS boolean LANGUAGE sql VOLATILE STRICT
RETURN pg_try_advisory_xact_lock(1145721435 # 'django_ray_execution'::regclass::oid::int, worker);

CREATE OR REPLACE FUNCTION django_ray_watch(worker int, seconds float8) RETURNS boolean LANGUAGE plpgsql VOLATILE STRICT
SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM set_config('lock_timeout', ceil(seconds * 1000)::int::text, true);
    PERFORM pg_advisory_xact_lock(1145721435 # 'django_ray_execution'::regclass::oid::int, worker);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

-- The server process of the session that is this supervisor; null when none is.
CREATE FUNCTION django_ray_session(worker int) RETURNS int LANGUAGE sql STABLE STRICT
RETURN (
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2 AND granted
        AND classid = (1145721435 # 'django_ray_execution'::regclass::oid::int)::oid AND objid = worker::oid
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    LIMIT 1
);

-- As before, and besides: a supervisor of 0.1.0 whose session began before this migration holds its identity by the old key.
-- Such a session is ended, and the next one takes the new key. Everybody asks for the members when somebody comes or goes, and
-- once a minute; so each ends its own at least, with its own rights.
CREATE OR REPLACE FUNCTION django_ray_members(of_backend text) RETURNS SETOF int LANGUAGE plpgsql VOLATILE ROWS 10
SET search_path FROM CURRENT AS $$
DECLARE
    assumed text := current_setting('role');
    former int;
BEGIN
    FOR former IN
        SELECT held.pid FROM pg_locks AS held JOIN django_ray_worker AS worker ON held.objid = worker.id::oid
        WHERE worker.backend = of_backend AND worker.stopped_at IS NULL AND worker.lost_at IS NULL
            AND held.locktype = 'advisory' AND held.objsubid = 2 AND held.granted AND held.classid = 1145721435
            AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND NOT EXISTS (
                SELECT FROM pg_locks AS new
                WHERE new.locktype = 'advisory' AND new.objsubid = 2 AND new.granted
                    AND new.classid = (1145721435 # 'django_ray_execution'::regclass::oid::int)::oid
                    AND new.objid = held.objid AND new.database = held.database
            )
    LOOP
        BEGIN
            -- Sessions belong to the role that logged in, so whoever has SET ROLE goes back to that one for a moment.
            PERFORM set_config('role', 'none', true);
            PERFORM pg_terminate_backend(former);
            PERFORM set_config('role', assumed, true);
        EXCEPTION WHEN insufficient_privilege THEN
            NULL; -- another role's
        END;
    END LOOP;
    RETURN QUERY
    SELECT id::int FROM django_ray_worker WHERE stopped_at IS NULL AND lost_at IS NULL AND backend = of_backend
    UNION
    SELECT claimed_by_id::int FROM django_ray_execution WHERE state = 'RUNNING' AND backend = of_backend;
END
$$;

-- Processes of 0.1.0 wait for results on a channel that knows no tables.
CREATE OR REPLACE FUNCTION django_ray_on_end() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify(django_ray_channel('results'), OLD.task_id::text), pg_notify('django_ray:results', OLD.task_id::text);
    RETURN NULL;
END
$$;

-- The functions of 0002 and 0003 look where the tables are first, whatever the search_path of that day was.
DO $do$
DECLARE
    home oid := (SELECT relnamespace FROM pg_class WHERE oid = 'django_ray_execution'::regclass);
    schema text := quote_ident((SELECT nspname FROM pg_namespace WHERE oid = home));
    function regprocedure;
    path text;
BEGIN
    FOR function, path IN
        SELECT p.oid, substr(setting, length('search_path=') + 1) FROM pg_proc AS p CROSS JOIN unnest(proconfig) AS setting
        WHERE pronamespace = home AND proname LIKE 'django\_ray\_%' AND starts_with(setting, 'search_path=')
    LOOP
        IF split_part(path, ',', 1) <> schema THEN
            EXECUTE format('ALTER FUNCTION %s SET search_path = %s, %s', function, schema, path);
        END IF;
    END LOOP;
END
$do$;
