"""The Django application: models, migrations and system checks."""

from importlib import import_module

from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate, pre_save


class DjangoRayConfig(AppConfig):
    """django_ray in INSTALLED_APPS."""

    name = "django_ray"
    verbose_name = "Django Ray"
    default_auto_field = "django.db.models.AutoField"

    def ready(self) -> None:
        """Register the system checks, and what tables without migrations and fixtures need."""
        import_module("django_ray.checks")
        import_module("django_ray.rights")
        unmigrated = import_module("django_ray.unmigrated")
        pre_migrate.connect(unmigrated.before_tables, sender=self)
        post_migrate.connect(unmigrated.after_tables, sender=self)
        # After what unmigrated tables need.
        post_migrate.connect(import_module("django_ray.declaring").after_migrate, sender=self)
        pre_save.connect(import_module("django_ray.fixtures").refuse_living, sender=self.get_model("RayWorker"))
