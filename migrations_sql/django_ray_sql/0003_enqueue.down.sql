DROP FUNCTION django_ray_enqueue(text, json);
