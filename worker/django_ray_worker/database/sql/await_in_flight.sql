SELECT django_ray_await_in_flight(%(bell)s)
