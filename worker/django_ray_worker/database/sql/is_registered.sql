-- Our row, as we wrote it.
SELECT FROM django_ray_worker
WHERE id = %(worker)s AND hostname = %(hostname)s AND pid = %(pid)s AND backend = %(backend)s AND stopped_at IS NULL
