SELECT django_ray_announce(bell) FROM unnest(%(bells)s::text[]) AS bell
