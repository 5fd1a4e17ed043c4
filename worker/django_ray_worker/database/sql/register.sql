INSERT INTO django_ray_worker (
    hostname, pid, backend, queues, ray_address, version, pulse, concurrency, resources, replicas, wanted
)
VALUES (
    %(hostname)s, %(pid)s, %(backend)s, %(queues)s, %(ray_address)s, %(version)s, %(pulse)s,
    %(concurrency)s, %(resources)s, %(replicas)s, %(wanted)s
)
ON CONFLICT (id) DO NOTHING
RETURNING id, pg_notify(django_ray_channel('supervisors:' || backend), '')
