-- What we have to run things on, unless somebody has locked our row. Tells whether somebody has.
WITH free AS MATERIALIZED (
    SELECT id FROM django_ray_worker WHERE id = %(worker)s FOR NO KEY UPDATE SKIP LOCKED
), told AS (
    UPDATE django_ray_worker
    SET concurrency = %(concurrency)s, resources = %(resources)s, replicas = %(replicas)s, wanted = %(wanted)s
    WHERE id = (SELECT id FROM free)
)
SELECT EXISTS (SELECT FROM django_ray_worker WHERE id = %(worker)s) AND NOT EXISTS (SELECT FROM free) AS is_locked
