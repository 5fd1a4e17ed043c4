INSERT INTO django_ray_worker (hostname, pid, backend, queues, concurrency, ray_address, version)
VALUES (%(hostname)s, %(pid)s, %(backend)s, %(queues)s, %(concurrency)s, %(ray_address)s, %(version)s)
RETURNING id
