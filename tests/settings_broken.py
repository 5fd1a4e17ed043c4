"""Settings that import, and that Django cannot use."""

INSTALLED_APPS = ["django_ray", "django_ray"]
SECRET_KEY = "only for tests"
