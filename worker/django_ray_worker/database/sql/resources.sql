-- What our cluster has in all, and how many slots we have, unless somebody has locked our row. Tells whether somebody has.
WITH free AS MATERIALIZED (
    SELECT id FROM django_ray_worker WHERE id = %(worker)s FOR NO KEY UPDATE SKIP LOCKED
), told AS (
    UPDATE django_ray_worker SET resources = %(resources)s, concurrency = %(concurrency)s WHERE id = (SELECT id FROM free)
)
SELECT EXISTS (SELECT FROM django_ray_worker WHERE id = %(worker)s) AND NOT EXISTS (SELECT FROM free) AS is_locked
