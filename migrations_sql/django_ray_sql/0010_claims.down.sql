DROP FUNCTION django_ray_is_passed_over(text, text[], uuid[]);
DROP FUNCTION django_ray_later(text, text[]);
DROP FUNCTION django_ray_is_small(jsonb, jsonb, jsonb, jsonb, jsonb, jsonb);
