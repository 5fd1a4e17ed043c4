-- Take up to limit rows of our queues, by priority and then age, and say when the next one falls due. A payload is NULL
-- where it would be large, or larger than its share of what all of them together may be.
-- One index probe per queue: ANY over queues would sort the whole backlog. The queues come in the order of their first rows, so
-- no more than the first limit of them can hold what is taken; those behind are for when others have locked it.
-- What few claims need is in functions of its own: each part of a statement is set up for every claim, a call only when it comes.
WITH queue AS MATERIALIZED (
    SELECT name, next_due, is_last FROM django_ray_heads(%(backend)s, %(queues)s, %(after)s, %(most_queues)s)
), head AS MATERIALIZED (
-- part: heads
), gated AS MATERIALIZED (
    SELECT * FROM django_ray_admissible(%(backend)s, %(queues)s, %(limit)s::int, %(after_queue)s::text, %(after_gate)s::text)
    WHERE EXISTS (SELECT FROM django_ray_execution WHERE backend = %(backend)s AND state = 'WAITING' AND gate IS NOT NULL)
), chosen AS MATERIALIZED (
-- part: order
), claimed AS (
-- part: taken
), facts AS (
    SELECT
        -- Locked by somebody else: a peer's claim, or a transaction that may yet leave it as it is and tell nobody. Who takes
        -- all that it asks for looks again anyway.
        CASE WHEN number < %(limit)s THEN django_ray_is_passed_over(
            %(backend)s,
-- part: names
            , ids
        ) ELSE false END
            OR coalesce(gates.has_skipped, false) AS has_skipped,
        -- What gates say, if something waits behind one: each column here is a value of each row.
        CASE WHEN gates.has_more IS NOT NULL
            THEN json_build_array(gates.has_more, gates.next_in, gates.queue, gates.gate)::text
        END AS gates,
        (
            SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM django_ray_execution
            WHERE backend = %(backend)s AND expires_at IS NOT NULL AND started_at IS NULL AND state IN ('READY', 'WAITING')
            ORDER BY expires_at LIMIT 1
        ) AS next_expiry,
        (extract(epoch FROM first_due) - extract(epoch FROM clock_timestamp()))::float8 AS next_due,
        -- The same without what is overdue, which may be locked for long. Looked for only if something is.
        (
            extract(epoch FROM CASE
                WHEN first_due <= statement_timestamp()
                THEN django_ray_later(%(backend)s, CASE WHEN %(queues)s::text[] IS NOT NULL THEN names END)
                ELSE first_due
            END)
            - extract(epoch FROM clock_timestamp())
        )::float8 AS next_later,
        place,
        least(65536, greatest(2048, 8388608 / nullif(number, 0))) AS most_bytes
    FROM
        (
            SELECT
                min(next_due) AS first_due, array_agg(name) AS names,
                min(name) FILTER (WHERE is_last) AS place
            FROM queue
        ) AS queues
        CROSS JOIN (SELECT count(*) AS number, array_agg(task_id) AS ids FROM chosen) AS taken
        LEFT JOIN gated AS gates ON gates.task_id IS NULL
    OFFSET 0  -- once, and not for each row that is taken
)
SELECT
    has_skipped, next_due, next_later, place, gates, next_expiry,
    task_id, attempt_number, claimed_by_id, queue_name, callable_path, failures, losses, released, waited, missing_for,
    CASE WHEN octet_length(options) > 65536 THEN '' ELSE options END AS options,
    CASE WHEN octet_length(payload) <= most_bytes THEN payload END AS payload, %(backend)s::text AS backend
FROM facts LEFT JOIN claimed ON true
ORDER BY claimed.priority DESC, claimed.task_id
