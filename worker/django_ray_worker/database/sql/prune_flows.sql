-- Delete up to limit flows of our backend that were begun so many seconds ago and of which no execution is left.
WITH doomed AS MATERIALIZED (
    SELECT id FROM django_ray_flow AS flow
    WHERE backend = %(backend)s AND created_at < statement_timestamp() - make_interval(secs => %(age)s)
        AND NOT EXISTS (SELECT FROM django_ray_execution WHERE flow_id = flow.id)
    ORDER BY created_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
DELETE FROM django_ray_flow WHERE id = ANY (ARRAY(SELECT id FROM doomed))
