import dj_database_url

from devpostgres import database_url

SECRET_KEY = "only for tests"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_ray"]
DATABASES = {"default": dj_database_url.parse(database_url())}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TASKS = {
    "default": {
        "BACKEND": "django_ray.backends.RayTaskBackend",
        "QUEUES": ["default", "other"],
    },
    "any": {"BACKEND": "django_ray.backends.RayTaskBackend", "QUEUES": []},
}
