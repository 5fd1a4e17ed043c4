-- The bells behind which transactions are in flight that may have looked before we announced.
SELECT bell FROM unnest(%(bells)s::text[]) AS bell WHERE NOT django_ray_is_settled(bell)
