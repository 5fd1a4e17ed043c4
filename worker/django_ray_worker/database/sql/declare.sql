SELECT django_ray_declare(%(backend)s, %(definitions)s::json, %(tasks)s::json, false)
