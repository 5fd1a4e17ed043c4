-- Admission: what waits behind a gate, what is enqueued once, and what expires. docs/architecture.md tells how they fit together.
--
-- A gate is a text: a name, and perhaps a colon and what the executions behind it have in common. How many of them may run at a time,
-- and how fast they may start, is said by each: gate_rule is {"limit": 5, "count": 100, "per": 60, "burst": 1, "full": "cancel_new"}. A row
-- of django_ray_gate of that name, or of the name with a star behind the colon, overrides it.
-- One more space of advisory locks: 1145721436 GATE, held by whoever admits, until its transaction ends; the key is that of
-- 'gate:<backend>:<gate>'. One more bell, 'gates:<backend>': something behind a gate may run that could not before;
-- and one more channel without a key, 'full:<backend>': something has come that does not want to wait at a full gate.

-- Whoever makes a row READY need not know of gates, and no index of what is claimable holds what waits behind one.
-- A key that keeps others out until its execution starts is given up then, for good: what comes back is no newcomer, and meets no twin.
-- Whoever runs what has ended once more means it: the time of then does not end it again.
-- One trigger for all of that, with a condition that is a look at three columns: every claim and every record evaluates it.
CREATE FUNCTION django_ray_on_admission() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state = 'RUNNING' AND NEW.unique_key NOT LIKE 'u:%' THEN
        NEW.unique_key := NULL;
    END IF;
    IF OLD.finished_at IS NOT NULL AND NEW.finished_at IS NULL THEN
        NEW.expires_at := NULL;
    END IF;
    IF NEW.gate IS NOT NULL AND NEW.state = 'READY' AND NEW.due_at IS NULL THEN
        NEW.state := 'WAITING';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER django_ray_on_admission BEFORE UPDATE ON django_ray_execution
FOR EACH ROW WHEN (NEW.gate IS NOT NULL OR NEW.unique_key IS NOT NULL OR NEW.expires_at IS NOT NULL)
EXECUTE FUNCTION django_ray_on_admission();

CREATE FUNCTION django_ray_on_gated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.state := 'WAITING';
    RETURN NEW;
END
$$;

CREATE TRIGGER django_ray_on_gated BEFORE INSERT ON django_ray_execution
FOR EACH ROW WHEN (NEW.gate IS NOT NULL AND NEW.state = 'READY' AND NEW.due_at IS NULL)
EXECUTE FUNCTION django_ray_on_gated();

-- Who does not want to wait at a full gate is told of to every supervisor, at work or not.
CREATE OR REPLACE FUNCTION django_ray_on_insert() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring_queue(backend, queue_name),
        CASE WHEN is_impatient THEN pg_notify(django_ray_channel('full:' || backend), '') END
    FROM (
        SELECT backend, queue_name, bool_or(gate_rule ? 'full') AS is_impatient FROM new_rows
        WHERE state = 'READY' OR state = 'WAITING' AND gate IS NOT NULL
        GROUP BY backend, queue_name
    ) AS queue;
    RETURN NULL;
END
$$;

DROP TRIGGER django_ray_on_update ON django_ray_execution;
CREATE TRIGGER django_ray_on_update AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (NEW.state = 'READY' OR NEW.state = 'WAITING' AND NEW.gate IS NOT NULL)
EXECUTE FUNCTION django_ray_on_update();

-- A place behind a gate is free, or its limits have changed. Rung whether or not somebody waits there: what is enqueued at the same
-- time cannot be seen from here.
CREATE FUNCTION django_ray_on_place() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM django_ray_ring('gates:' || coalesce(NEW.backend, OLD.backend));
    RETURN NULL;
END
$$;

CREATE TRIGGER django_ray_on_place AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (OLD.gate IS NOT NULL AND OLD.state = 'RUNNING' AND NEW.state <> 'RUNNING')
EXECUTE FUNCTION django_ray_on_place();

CREATE TRIGGER django_ray_on_place_deleted AFTER DELETE ON django_ray_execution
FOR EACH ROW WHEN (OLD.gate IS NOT NULL AND OLD.state = 'RUNNING') EXECUTE FUNCTION django_ray_on_place();

CREATE TRIGGER django_ray_on_gate AFTER INSERT OR DELETE ON django_ray_gate
FOR EACH ROW EXECUTE FUNCTION django_ray_on_place();

CREATE TRIGGER django_ray_on_gate_changed AFTER UPDATE ON django_ray_gate
FOR EACH ROW WHEN (
    (NEW.backend, NEW.name, NEW."limit", NEW.rate_count, NEW.rate_per, NEW.rate_burst)
    IS DISTINCT FROM (OLD.backend, OLD.name, OLD."limit", OLD.rate_count, OLD.rate_per, OLD.rate_burst)
) EXECUTE FUNCTION django_ray_on_place();

-- A number of JSON within bounds; NULL for anything else.
CREATE FUNCTION django_ray_number(value jsonb, least_of float8, most float8) RETURNS float8 LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(value) = 'number' THEN
    CASE WHEN value::numeric BETWEEN least_of::numeric AND most::numeric THEN value::float8 END
END;

-- What holds at a gate, which is what a row behind it says unless it is overridden: how many may run; the seconds from one start to the
-- next; how many of these may be made up for at once; and when the next one may start, as far as somebody has started.
CREATE FUNCTION django_ray_gate_rule(of_backend text, of_gate text, rule jsonb)
RETURNS TABLE (most int, seconds float8, depth float8, next_at timestamptz) LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT
        coalesce(own."limit", family."limit", django_ray_number(rule -> 'limit', 0, 2147483647)::int),
        rate.seconds,
        -- Nobody wakes at the very moment: what is late by less is made up for, or the rate would never be reached.
        greatest((rate.burst - 1) * rate.seconds, 0.02),
        own.next_at
    FROM (SELECT) AS one
    LEFT JOIN django_ray_gate AS own ON own.backend = of_backend AND own.name = of_gate COLLATE "C"
    LEFT JOIN django_ray_gate AS family
        ON family.backend = of_backend AND family.name = (split_part(of_gate, ':', 1) || ':*') COLLATE "C"
    CROSS JOIN LATERAL (
        SELECT
            CASE
                WHEN own.rate_count IS NOT NULL THEN own.rate_per / own.rate_count
                WHEN family.rate_count IS NOT NULL THEN family.rate_per / family.rate_count
                ELSE django_ray_number(rule -> 'per', 0.000001, 3153600000) / django_ray_number(rule -> 'count', 1, 2147483647)
            END AS seconds,
            CASE
                WHEN own.rate_count IS NOT NULL THEN own.rate_burst
                WHEN family.rate_count IS NOT NULL THEN family.rate_burst
                ELSE coalesce(django_ray_number(rule -> 'burst', 1, 2147483647), 1)
            END AS burst
    ) AS rate;
END;

-- How many of those that wait may start now, up to wanted; and in how many seconds one may that cannot before.
CREATE FUNCTION django_ray_places(of_backend text, of_gate text, rule jsonb, wanted int)
RETURNS TABLE (free int, next_in float8, seconds float8) LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT
        least(
            wanted,
            most - CASE WHEN most IS NOT NULL THEN (
                SELECT count(*) FROM (
                    SELECT FROM django_ray_execution
                    WHERE backend = of_backend AND gate = of_gate COLLATE "C" AND state = 'RUNNING'
                    LIMIT most
                ) AS running
            )::int END,
            CASE
                WHEN seconds IS NULL THEN NULL
                WHEN past < 0 THEN 0
                ELSE least(floor(least(past, depth) / seconds) + 1, 2147483647)::int
            END
        ),
        CASE WHEN seconds IS NOT NULL THEN -least(past, depth) END,
        seconds
    FROM django_ray_gate_rule(of_backend, of_gate, rule)
    CROSS JOIN LATERAL (
        SELECT coalesce(extract(epoch FROM clock_timestamp() - next_at)::float8, 'Infinity') AS past
    ) AS clock;
END;

-- Each start is counted at its gate, if there is a rate.
CREATE FUNCTION django_ray_on_start() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    rule record;
BEGIN
    SELECT * INTO rule FROM django_ray_gate_rule(NEW.backend, NEW.gate, NEW.gate_rule);
    IF rule.seconds IS NOT NULL THEN
        INSERT INTO django_ray_gate AS gate (backend, name, next_at)
        VALUES (NEW.backend, NEW.gate, clock_timestamp() - make_interval(secs => rule.depth - rule.seconds))
        ON CONFLICT (backend, name) DO UPDATE SET
            next_at = greatest(gate.next_at, clock_timestamp() - make_interval(secs => rule.depth))
                + make_interval(secs => rule.seconds);
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER django_ray_on_start AFTER UPDATE ON django_ray_execution
FOR EACH ROW WHEN (NEW.gate IS NOT NULL AND OLD.state = 'WAITING' AND NEW.state = 'RUNNING')
EXECUTE FUNCTION django_ray_on_start();

-- Up to room rows that may start behind gates, of our queues: those of the highest priority first, and among them one of each gate in
-- turn, in a circle by queue and gate from a place on. They are locked, and so is each of their gates, until the transaction ends:
-- whoever starts them counts what runs while nobody else can start anything there. Each step is a statement with a snapshot of its own,
-- or what the last one has started would not be counted.
-- What begins with an exclamation mark is no gate, but a lane (0022_lanes), and comes before all of them.
-- The last row has no task_id. It says whether something was passed over that somebody else has locked; whether there is more that
-- may start; in how many seconds the next one may, where that is a matter of time; and the place to go on from.
CREATE FUNCTION django_ray_admissible(of_backend text, given text[], room int, after_queue text, after_gate text)
RETURNS TABLE (
    task_id uuid, priority smallint, rank int, has_skipped boolean, has_more boolean, next_in float8, queue text, gate text
)
-- Every look is one probe of django_ray_gated. All of its columns are named in their order, and nothing is sorted, so that no plan without
-- statistics takes another index and reads all that waits.
LANGUAGE plpgsql VOLATILE ROWS 4 SET search_path FROM CURRENT SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
    class smallint;
    queues text[];
    gates text[];
    number int;
    share int;
    is_skipped boolean := false;
    is_more boolean := false;
    found int := 0;
    taken text[] := '{}';
    first_in float8;
    one record;
BEGIN
    LOOP
        class := (
            SELECT priority FROM django_ray_execution
            WHERE backend = of_backend AND state = 'WAITING' AND gate IS NOT NULL AND priority < coalesce(class::int, 32768)
            ORDER BY backend, priority DESC, queue_name, gate, task_id LIMIT 1
        );
        EXIT WHEN class IS NULL OR found >= room;

        -- Where something may start, as far as one sees without a lock.
        WITH RECURSIVE filled(queue) AS (
            (SELECT queue_name::text FROM django_ray_execution
             WHERE given IS NULL AND backend = of_backend AND state = 'WAITING' AND gate IS NOT NULL AND priority = class
             ORDER BY backend, priority DESC, queue_name, gate, task_id LIMIT 1)
            UNION ALL
            SELECT next.* FROM filled CROSS JOIN LATERAL (
                SELECT queue_name::text FROM django_ray_execution
                WHERE backend = of_backend AND state = 'WAITING' AND gate IS NOT NULL AND priority = class
                    AND queue_name > filled.queue COLLATE "C"
                ORDER BY backend, priority DESC, queue_name, gate, task_id LIMIT 1
            ) AS next
        ), served AS MATERIALIZED (
            SELECT queue FROM (SELECT queue FROM filled UNION SELECT unnest(given)) AS known
            WHERE NOT EXISTS (
                SELECT FROM django_ray_queue
                WHERE backend = of_backend AND name = known.queue COLLATE "C" AND paused_at IS NOT NULL
            )
        ), part AS MATERIALIZED (
            SELECT queue, CASE WHEN queue = after_queue THEN after_gate ELSE '"' END AS above, NULL::text AS upto
            FROM served ORDER BY coalesce(queue < after_queue COLLATE "C", false), queue COLLATE "C"
        )
        SELECT array_agg(member.queue), array_agg(member.gate), count(*) INTO queues, gates, number
        FROM (
            SELECT part.queue, walk.gate
            FROM (SELECT * FROM part UNION ALL SELECT queue, '"', after_gate FROM served WHERE queue = after_queue) AS part
            CROSS JOIN LATERAL (
                WITH RECURSIVE walk(gate, rule) AS (
                    (SELECT gate::text, gate_rule FROM django_ray_execution
                     WHERE backend = of_backend AND state = 'WAITING' AND gate IS NOT NULL AND priority = class AND queue_name = part.queue
                        AND gate > part.above COLLATE "C" AND (part.upto IS NULL OR gate <= part.upto COLLATE "C")
                     ORDER BY backend, priority DESC, queue_name, gate, task_id LIMIT 1)
                    UNION ALL
                    SELECT next.* FROM walk CROSS JOIN LATERAL (
                        SELECT gate::text, gate_rule FROM django_ray_execution
                        WHERE backend = of_backend AND state = 'WAITING' AND gate IS NOT NULL AND priority = class AND queue_name = part.queue
                            AND gate > walk.gate COLLATE "C" AND (part.upto IS NULL OR gate <= part.upto COLLATE "C")
                        ORDER BY backend, priority DESC, queue_name, gate, task_id LIMIT 1
                    ) AS next
                )
                SELECT * FROM walk
            ) AS walk
            CROSS JOIN LATERAL django_ray_places(of_backend, walk.gate, walk.rule, 1) AS places
            WHERE places.free > 0
            LIMIT least(room - found, 256)  -- each is a lock, of which the server has some thousands
        ) AS member;
        CONTINUE WHEN number = 0;
        after_queue := queues[number];
        after_gate := gates[number];

        -- Who finds a gate locked is not needed there, and looks again soon, for the peer may leave places.
        SELECT array_agg(member.queue ORDER BY place), array_agg(member.gate ORDER BY place), count(*)
        INTO queues, gates, share
        FROM (
            SELECT * FROM unnest(queues, gates) WITH ORDINALITY AS member(queue, gate, place) OFFSET 0
        ) AS member
        WHERE pg_try_advisory_xact_lock(1145721436, django_ray_key('gate:' || of_backend || ':' || gate));
        is_skipped := is_skipped OR share < number;
        is_more := is_more OR number = 256;
        CONTINUE WHEN share = 0;
        share := ceil((room - found)::float8 / share);

        FOR one IN
            WITH member AS MATERIALIZED (
                SELECT * FROM unnest(queues, gates) WITH ORDINALITY AS member(queue, gate, place)
            ), place AS MATERIALIZED (
                SELECT
                    first.gate, places.next_in, places.seconds,
                    places.free - (SELECT count(*) FROM unnest(taken) AS before WHERE before = first.gate)::int AS free
                FROM (SELECT DISTINCT ON (gate) * FROM member ORDER BY gate, place) AS first
                CROSS JOIN LATERAL (
                    SELECT gate_rule FROM django_ray_execution
                    WHERE backend = of_backend AND state = 'WAITING' AND gate IS NOT NULL AND priority = class AND queue_name = first.queue
                        AND gate = first.gate COLLATE "C"
                    ORDER BY backend, priority DESC, queue_name, gate, task_id LIMIT 1
                ) AS head
                CROSS JOIN LATERAL django_ray_places(of_backend, first.gate, head.gate_rule, room) AS places
            ), head AS MATERIALIZED (
                SELECT
                    member.gate, member.place, place.free, place.next_in, place.seconds, waiting.task_id,
                    row_number() OVER (PARTITION BY member.gate ORDER BY member.place, waiting.task_id) AS turn
                FROM member JOIN place ON place.gate = member.gate
                CROSS JOIN LATERAL (
                    SELECT task_id FROM django_ray_execution
                    WHERE backend = of_backend AND state = 'WAITING' AND gate IS NOT NULL AND priority = class AND queue_name = member.queue
                        AND gate = member.gate COLLATE "C"
                        AND (expires_at IS NULL OR expires_at > statement_timestamp() OR started_at IS NOT NULL)
                    ORDER BY backend, priority DESC, queue_name, gate, task_id
                    LIMIT greatest(least(place.free, share), 0)
                    FOR UPDATE SKIP LOCKED
                ) AS waiting
            )
            SELECT *, free > share AND count(*) OVER (PARTITION BY gate) >= share AS is_cut
            FROM head WHERE turn <= free ORDER BY turn, place
        LOOP
            EXIT WHEN found >= room;
            found := found + 1;
            taken := taken || one.gate;
            is_more := is_more OR one.is_cut;
            first_in := least(first_in, one.next_in + one.turn * one.seconds);
            task_id := one.task_id;
            priority := class;
            rank := found;
            RETURN NEXT;
        END LOOP;

        -- Locked rows: those that are there, and were not among them.
        is_skipped := is_skipped OR found < room AND EXISTS (
            SELECT FROM unnest(queues, gates) AS member(queue, gate)
            CROSS JOIN LATERAL (
                SELECT gate_rule, task_id FROM django_ray_execution
                WHERE backend = of_backend AND state = 'WAITING' AND gate IS NOT NULL AND priority = class AND queue_name = member.queue
                    AND gate = member.gate COLLATE "C"
                ORDER BY backend, priority DESC, queue_name, gate, task_id LIMIT 1
            ) AS head
            WHERE member.gate <> ALL (taken)
                AND (SELECT free FROM django_ray_places(of_backend, member.gate, head.gate_rule, 1)) > 0
        );
    END LOOP;

    task_id := NULL;
    has_skipped := is_skipped;
    has_more := is_more AND found > 0;
    -- What waits for its time alone. Of what starts now, the next one is counted above.
    next_in := least(first_in, (
        SELECT extract(epoch FROM next_at - clock_timestamp())::float8 FROM django_ray_gate
        WHERE backend = of_backend AND next_at > clock_timestamp() AND EXISTS (
            SELECT FROM django_ray_execution
            WHERE backend = of_backend AND gate = django_ray_gate.name AND state = 'WAITING'
        )
        ORDER BY next_at LIMIT 1
    ));
    queue := after_queue;
    gate := after_gate;
    RETURN NEXT;
END
$$;

-- What an error of ours in a row looks like.
CREATE FUNCTION django_ray_error(class text, message text, worker_ids jsonb) RETURNS jsonb LANGUAGE sql STABLE PARALLEL SAFE
RETURN jsonb_build_object(
    'exception_class_path', 'django_ray.exceptions.' || class, 'message', message,
    'traceback', 'django_ray.exceptions.' || class || ': ' || message || E'\n',
    'attempt', jsonb_array_length(worker_ids), 'worker_id', NULL, 'at', statement_timestamp());

-- Whoever does not want to wait at a full gate: the new ones go, or what runs is cancelled for the newest. Up to 256 gates.
-- How many have been cancelled at once, how many of those that run shall be, and whether somebody has locked a gate or a row. A rate makes
-- no gate full, and who says another word waits.
CREATE FUNCTION django_ray_make_way(of_backend text) RETURNS TABLE (refused int, stopped int, has_skipped boolean)
LANGUAGE plpgsql VOLATILE ROWS 1 SET search_path FROM CURRENT AS $$
DECLARE
    one record;
    free int;
    number int;
    surplus int;
    hurry boolean;
BEGIN
    refused := 0;
    stopped := 0;
    has_skipped := false;
    FOR one IN
        WITH RECURSIVE walk(gate, rule) AS (
            (SELECT gate::text, gate_rule FROM django_ray_execution
             WHERE backend = of_backend AND state = 'WAITING' AND gate IS NOT NULL AND gate_rule ? 'full'
             ORDER BY gate, task_id LIMIT 1)
            UNION ALL
            SELECT next.* FROM walk CROSS JOIN LATERAL (
                SELECT gate::text, gate_rule FROM django_ray_execution
                WHERE backend = of_backend AND state = 'WAITING' AND gate_rule ? 'full' AND gate > walk.gate COLLATE "C"
                ORDER BY gate, task_id LIMIT 1
            ) AS next
        )
        SELECT * FROM walk LIMIT 256
    LOOP
        IF NOT pg_try_advisory_xact_lock(1145721436, django_ray_key('gate:' || of_backend || ':' || one.gate)) THEN
            has_skipped := true;
            CONTINUE;
        END IF;
        -- A statement after the lock, whose snapshot has whatever the holder before has started.
        surplus := (SELECT most FROM django_ray_gate_rule(of_backend, one.gate, one.rule));
        CONTINUE WHEN surplus IS NULL OR (one.rule ->> 'full' IN ('cancel_new', 'cancel_running')) IS NOT TRUE;
        free := surplus - (
            SELECT count(*) FROM (
                SELECT FROM django_ray_execution
                WHERE backend = of_backend AND gate = one.gate COLLATE "C" AND state = 'RUNNING' LIMIT surplus
            ) AS running
        );
        hurry := one.rule ->> 'full' = 'cancel_running';
        IF NOT hurry THEN
            surplus := free;
        END IF;  -- else the newest of them are wanted, and no more than may run
        WITH waiting AS MATERIALIZED (
            SELECT task_id FROM django_ray_execution
            WHERE backend = of_backend AND gate = one.gate COLLATE "C" AND state = 'WAITING' AND gate_rule ? 'full'
            ORDER BY CASE WHEN hurry THEN enqueued_at END DESC, priority DESC, task_id
            OFFSET surplus
            FOR UPDATE SKIP LOCKED
        ), gone AS (
            UPDATE django_ray_execution AS execution SET
                state = 'CANCELLED', finished_at = statement_timestamp(), cancel_requested_at = statement_timestamp(),
                errors = errors || django_ray_error(
                    'GateFull', 'The gate ' || one.gate || ' was full, and when_full says ' || (one.rule ->> 'full') || '.', worker_ids)
            WHERE task_id = ANY (ARRAY(SELECT task_id FROM waiting))
            RETURNING 1
        )
        SELECT count(*) INTO number FROM gone;
        refused := refused + number;
        IF hurry THEN
            number := (
                SELECT count(*) FROM (
                    SELECT FROM django_ray_execution
                    WHERE backend = of_backend AND gate = one.gate COLLATE "C" AND state = 'WAITING' LIMIT surplus
                ) AS waiting
            ) - free - (
                SELECT count(*) FROM django_ray_execution
                WHERE backend = of_backend AND gate = one.gate COLLATE "C" AND state = 'RUNNING' AND cancel_requested_at IS NOT NULL
            );
            WITH running AS MATERIALIZED (
                SELECT task_id FROM django_ray_execution
                WHERE backend = of_backend AND gate = one.gate COLLATE "C" AND state = 'RUNNING' AND cancel_requested_at IS NULL
                ORDER BY last_attempted_at
                LIMIT greatest(number, 0)
                FOR UPDATE SKIP LOCKED
            ), asked AS (
                UPDATE django_ray_execution SET cancel_requested_at = statement_timestamp()
                WHERE task_id = ANY (ARRAY(SELECT task_id FROM running))
                RETURNING 1
            )
            SELECT count(*) INTO surplus FROM asked;
            stopped := stopped + surplus;
            has_skipped := has_skipped OR surplus < number;
        END IF;
    END LOOP;
    RETURN NEXT;
END
$$;

-- What has not begun by its time ends. How many have; those that somebody has locked come next time.
CREATE FUNCTION django_ray_expire(of_backend text) RETURNS int LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    number int;
BEGIN
    WITH late AS MATERIALIZED (
        SELECT task_id FROM django_ray_execution
        WHERE backend = of_backend AND expires_at <= statement_timestamp() AND expires_at IS NOT NULL AND started_at IS NULL
            AND state IN ('READY', 'WAITING')
        ORDER BY expires_at
        LIMIT 1000
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        UPDATE django_ray_execution SET
            state = 'FAILED', finished_at = statement_timestamp(), due_at = NULL,
            errors = errors || django_ray_error(
                'TaskExpired', 'It had not begun by ' || coalesce(
                    to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC', expires_at::text) || '.', worker_ids)
        WHERE task_id = ANY (ARRAY(SELECT task_id FROM late))
        RETURNING 1
    )
    SELECT count(*) INTO number FROM gone;
    RETURN number;
END
$$;

-- Put the arguments of another enqueue, and its time, into an execution that has not started; false when it has. With the rights of the
-- owner, so that whoever enqueues needs none to write what is there. Only what says that it may be replaced is.
CREATE FUNCTION django_ray_replace(id uuid, key text, call json) RETURNS boolean LANGUAGE sql VOLATILE STRICT SECURITY DEFINER
BEGIN ATOMIC
    UPDATE django_ray_execution SET
        args = coalesce((call -> 'args')::jsonb, '[]'), kwargs = coalesce((call -> 'kwargs')::jsonb, '{}'),
        options = nullif((call -> 'options')::jsonb, 'null'), carrier = nullif((call -> 'carrier')::jsonb, 'null'),
        priority = coalesce((call ->> 'priority')::int2, 0),
        enqueued_at = statement_timestamp(),
        run_after = coalesce((call ->> 'moment')::timestamptz, statement_timestamp() + (call ->> 'delay')::interval),
        due_at = coalesce((call ->> 'moment')::timestamptz, statement_timestamp() + (call ->> 'delay')::interval),
        expires_at = coalesce((call ->> 'moment')::timestamptz, statement_timestamp() + coalesce((call ->> 'delay')::interval, '0'))
            + (call #>> '{admission,expires}')::interval,
        state = 'READY'
    WHERE task_id = id AND unique_key = key COLLATE "C" AND key LIKE 'r:%' AND state IN ('READY', 'WAITING')
    RETURNING true;
END;
REVOKE EXECUTE ON FUNCTION django_ray_replace(uuid, text, json) FROM PUBLIC;

-- One round of django_ray_enqueue_admitted(): insert the chosen calls, which are places, and see what the others are duplicates of. Those
-- that are left met an execution that has ended, or started, since.
CREATE FUNCTION django_ray_enqueue_round(of_backend text, calls json, ids uuid[], keys text[], chosen int[])
RETURNS TABLE (left_over int[], twins jsonb) LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    inserted uuid[];
    twin uuid;
    place int;
    each json[];
BEGIN
    WITH fresh AS (
        INSERT INTO django_ray_execution AS execution (
            task_id, backend, queue_name, priority, callable_path, args, kwargs, options, carrier, enqueued_at, run_after,
            due_at, unique_key, gate, gate_rule, expires_at
        )
        SELECT
            ids[number], of_backend, coalesce(queue_name, 'default'), coalesce(priority, 0), callable_path,
            coalesce(args, '[]'), coalesce(kwargs, '{}'), options, carrier, statement_timestamp(),
            coalesce(moment, statement_timestamp() + delay), coalesce(moment, statement_timestamp() + delay),
            admission ->> 'unique', admission ->> 'gate', admission -> 'rule',
            coalesce(moment, statement_timestamp() + coalesce(delay, '0')) + (admission ->> 'expires')::interval
        FROM ROWS FROM (
            json_to_recordset(calls) AS (
                queue_name text, priority int2, callable_path text, args jsonb, kwargs jsonb, options jsonb,
                carrier jsonb, moment timestamptz, delay interval, admission jsonb
            )
        ) WITH ORDINALITY AS call(
            queue_name, priority, callable_path, args, kwargs, options, carrier, moment, delay, admission, number
        )
        WHERE number = ANY (chosen)
        ORDER BY admission ->> 'unique' COLLATE "C", number
        ON CONFLICT (backend, unique_key) WHERE unique_key IS NOT NULL AND state IN ('READY', 'RUNNING', 'WAITING') DO NOTHING
        RETURNING execution.task_id
    )
    SELECT array_agg(task_id) INTO inserted FROM fresh;
    twins := '{}';
    IF EXISTS (SELECT FROM unnest(keys) AS key WHERE key LIKE 'r:%') THEN
        each := ARRAY(SELECT json_array_elements(calls));
    END IF;
    left_over := ARRAY(SELECT number FROM unnest(chosen) AS number WHERE ids[number] <> ALL (coalesce(inserted, '{}')));
    -- In the order of their keys, too: who replaces waits for who replaces.
    FOREACH place IN ARRAY ARRAY(SELECT number FROM unnest(left_over) AS number ORDER BY keys[number] COLLATE "C") LOOP
        twin := (
            SELECT task_id FROM django_ray_execution
            WHERE backend = of_backend AND unique_key = keys[place] COLLATE "C" AND state IN ('READY', 'RUNNING', 'WAITING')
        );
        -- It may have ended, or started, in between: then the key is free.
        IF twin IS NOT NULL AND (
            keys[place] NOT LIKE 'r:%' OR django_ray_replace(twin, keys[place], each[place])
        ) THEN
            twins := twins || jsonb_build_object(keys[place], twin);
            left_over := array_remove(left_over, place);
        END IF;
    END LOOP;
    RETURN NEXT;
END
$$;

-- As django_ray_enqueue(), for calls of which one says more: "admission": {"unique": a key, "gate": a text, "rule": {...}, "expires": an
-- interval}. Of an unfinished execution with the same key it is a duplicate: nothing is inserted, and the id is that of the other. A key that
-- begins with 'r:' gives the other one, which has not started, its arguments and its time. A key that begins with 'u:' is held until
-- the execution has ended, any other until it starts.
CREATE FUNCTION django_ray_enqueue_admitted(of_backend text, calls json)
RETURNS TABLE (task_id uuid, enqueued_at timestamptz, run_after timestamptz, is_duplicate boolean) LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    -- Made before, in their order, since rows are inserted in that of their keys: two who enqueue the same ones never wait in a ring.
    ids uuid[] := ARRAY(SELECT django_ray_uuid7() FROM generate_series(1, json_array_length(calls)));
    keys text[] := ARRAY(
        SELECT call #>> '{admission,unique}'
        FROM json_array_elements(calls) WITH ORDINALITY AS element(call, number) ORDER BY number
    );
    -- The places of the calls that are to be inserted: of each key the first, or the last of those that replace.
    chosen int[] := ARRAY(
        SELECT number FROM (
            SELECT number, key, CASE
                WHEN key LIKE 'r:%' THEN max(number) OVER (PARTITION BY key) ELSE min(number) OVER (PARTITION BY key)
            END AS wanted
            FROM unnest(keys) WITH ORDINALITY AS one(key, number)
        ) AS one
        WHERE key IS NULL OR number = wanted
    );
    has_many boolean := (SELECT count(DISTINCT key) > 1 FROM unnest(keys) AS key);
    twins jsonb := '{}';  -- By their keys: the executions that calls have become.
    ended record;
BEGIN
    FOR round IN 1 .. 1000 LOOP
        IF has_many THEN
            -- What is left must not be inserted by one that holds keys after it. So all of them are given back, and it begins anew.
            BEGIN
                SELECT * INTO ended FROM django_ray_enqueue_round(of_backend, calls, ids, keys, chosen);
                IF ended.left_over <> '{}' THEN
                    RAISE USING ERRCODE = 'DRNEW';
                END IF;
            EXCEPTION WHEN SQLSTATE 'DRNEW' THEN
                CONTINUE;
            END;
        ELSE
            SELECT * INTO ended FROM django_ray_enqueue_round(of_backend, calls, ids, keys, chosen);
        END IF;
        twins := twins || ended.twins;
        chosen := ended.left_over;
        EXIT WHEN chosen = '{}';
    END LOOP;
    IF chosen <> '{}' THEN
        RAISE 'Executions with the keys of these calls come and go too fast.' USING ERRCODE = 'serialization_failure';
    END IF;

    -- What was inserted for a key is what the other calls of that key are duplicates of.
    twins := twins || coalesce((
        SELECT jsonb_object_agg(unique_key, task_id) FROM django_ray_execution
        WHERE task_id = ANY (ids) AND unique_key IS NOT NULL
    ), '{}');
    RETURN QUERY
    SELECT execution.task_id, execution.enqueued_at, execution.run_after, execution.task_id <> ids[number]
    FROM unnest(keys) WITH ORDINALITY AS call(key, number)
    JOIN django_ray_execution AS execution ON execution.task_id = coalesce((twins ->> key)::uuid, ids[number])
    ORDER BY number;
END
$$;

-- The executions of ticks say the same, where their schedule does; what is a duplicate is not enqueued. The others need no right to these
-- columns: roles of before go on.
CREATE OR REPLACE FUNCTION django_ray_enqueue_ticks(schedules int[], ticks timestamptz[])
RETURNS TABLE (task_id uuid, schedule_id int, tick timestamptz) LANGUAGE plpgsql VOLATILE ROWS 1
SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT FROM django_ray_schedule WHERE id = ANY (schedules) AND admission IS NOT NULL) THEN
        RETURN QUERY
        INSERT INTO django_ray_execution AS execution (
            backend, queue_name, priority, callable_path, args, kwargs, options, carrier, enqueued_at, schedule_id, tick,
            unique_key, gate, gate_rule, expires_at
        )
        SELECT
            backend, queue_name, priority, callable_path, args, kwargs, options,
            jsonb_build_object('schedule', jsonb_build_object('name', name, 'tick', due.tick, 'zone', left(time_zone, 255))),
            statement_timestamp(), schedule.id, due.tick,
            admission ->> 'unique', admission ->> 'gate', admission -> 'rule',
            statement_timestamp() + (admission ->> 'expires')::interval
        FROM unnest(schedules, ticks) WITH ORDINALITY AS due(id, tick, place)
        JOIN django_ray_schedule AS schedule ON schedule.id = due.id
        -- In the order of their keys, as whoever enqueues them inserts them.
        ORDER BY admission ->> 'unique' COLLATE "C", due.place
        ON CONFLICT DO NOTHING
        RETURNING execution.task_id, execution.schedule_id, execution.tick;
        RETURN;
    END IF;
    RETURN QUERY
    INSERT INTO django_ray_execution AS execution
        (backend, queue_name, priority, callable_path, args, kwargs, options, carrier, enqueued_at, schedule_id, tick)
    SELECT
        backend, queue_name, priority, callable_path, args, kwargs, options,
        jsonb_build_object('schedule', jsonb_build_object('name', name, 'tick', due.tick, 'zone', left(time_zone, 255))),
        statement_timestamp(), schedule.id, due.tick
    FROM unnest(schedules, ticks) WITH ORDINALITY AS due(id, tick, place)
    JOIN django_ray_schedule AS schedule ON schedule.id = due.id
    ORDER BY due.place
    ON CONFLICT (schedule_id, tick) WHERE schedule_id IS NOT NULL DO NOTHING
    RETURNING execution.task_id, execution.schedule_id, execution.tick;
END
$$;

-- As before, with what admits the executions of a definition. Of what others have made, the code of the project computes it: migrate does.
CREATE OR REPLACE FUNCTION django_ray_declare(of_backend text, definitions json, tasks json, counts boolean) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO django_ray_schedule AS schedule (
        backend, name, callable_path, args, kwargs, queue_name, priority, options, cron, every, time_zone, missed, missed_within,
        overlap, admission, is_declared, seen
    )
    SELECT
        of_backend, name, callable_path, args, kwargs, queue_name, priority, options, cron, make_interval(secs => every), time_zone,
        missed, make_interval(secs => missed_within), overlap, admission, true, jsonb_build_array(digest)
    FROM json_to_recordset(definitions) AS definition(
        name text, callable_path text, args jsonb, kwargs jsonb, queue_name text, priority int2, options jsonb, cron text,
        every float8, time_zone text, missed text, missed_within float8, overlap text, admission jsonb, digest text
    )
    ORDER BY name
    ON CONFLICT (backend, name) DO UPDATE SET
        callable_path = excluded.callable_path, args = excluded.args, kwargs = excluded.kwargs,
        queue_name = excluded.queue_name, priority = excluded.priority, options = excluded.options,
        cron = excluded.cron, every = excluded.every, time_zone = excluded.time_zone,
        missed = excluded.missed, missed_within = excluded.missed_within, overlap = excluded.overlap, admission = excluded.admission,
        is_declared = true, gone_at = NULL, seen = django_ray_seen(schedule.seen, excluded.seen -> 0)
    WHERE CASE
        WHEN counts THEN NOT schedule.is_declared OR schedule.gone_at IS NOT NULL OR schedule.seen -> -1 <> excluded.seen -> 0
        ELSE NOT schedule.seen ? (excluded.seen ->> 0)
    END;

    IF counts THEN
        UPDATE django_ray_schedule SET gone_at = statement_timestamp()
        WHERE backend = of_backend AND is_declared AND gone_at IS NULL
            AND name NOT IN (SELECT name FROM json_to_recordset(definitions) AS definition(name text));
    END IF;

    -- What others have made says what its task said then. As long as it does, it follows its task.
    UPDATE django_ray_schedule AS schedule SET
        queue_name = task.queue_name, priority = task.priority, options = task.options,
        seen = django_ray_seen(schedule.seen, task.head)
    FROM (
        SELECT *, jsonb_build_object('queue_name', queue_name, 'priority', priority, 'options', options) AS head
        FROM json_to_recordset(tasks) AS task(callable_path text, queue_name text, priority int2, options jsonb)
    ) AS task
    WHERE schedule.backend = of_backend AND NOT is_declared AND schedule.callable_path = task.callable_path
        AND schedule.seen -> -1 = jsonb_build_object(
            'queue_name', schedule.queue_name, 'priority', schedule.priority, 'options', schedule.options)
        AND schedule.seen -> -1 <> task.head
        AND (counts OR NOT EXISTS (SELECT FROM jsonb_array_elements(schedule.seen) AS before WHERE before = task.head));
END
$$;
