DROP FUNCTION django_ray_declare(text, json, json, boolean);
DROP FUNCTION django_ray_seen(jsonb, jsonb);
DROP FUNCTION django_ray_enqueue_ticks(int[], timestamptz[]);
DROP TRIGGER django_ray_on_rescheduled ON django_ray_schedule;
DROP TRIGGER django_ray_on_scheduled ON django_ray_schedule;
DROP FUNCTION django_ray_on_scheduled();
DROP TRIGGER django_ray_on_reschedule ON django_ray_schedule;
DROP TRIGGER django_ray_on_schedule ON django_ray_schedule;
DROP FUNCTION django_ray_on_schedule();
