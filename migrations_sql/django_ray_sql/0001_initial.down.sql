DROP FUNCTION django_ray_uuid7();
