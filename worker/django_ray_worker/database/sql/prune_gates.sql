-- Delete up to limit rows of gates that override nothing, and behind which nothing has started for so many seconds.
WITH doomed AS MATERIALIZED (
    SELECT id FROM django_ray_gate
    WHERE backend = %(backend)s AND next_at < statement_timestamp() - make_interval(secs => %(age)s)
        AND "limit" IS NULL AND rate_count IS NULL
    ORDER BY next_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
DELETE FROM django_ray_gate WHERE id = ANY (ARRAY(SELECT id FROM doomed))
