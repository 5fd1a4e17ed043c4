INSERT INTO django_ray_worker (hostname, pid, backend, queues, concurrency, ray_address, resources, version, pulse)
VALUES (
    %(hostname)s, %(pid)s, %(backend)s, %(queues)s, %(concurrency)s, %(ray_address)s, %(resources)s, %(version)s, %(pulse)s
)
ON CONFLICT (id) DO NOTHING
RETURNING id, pg_notify(django_ray_channel('supervisors:' || backend), '')
