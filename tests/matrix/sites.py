"""AdminSites and a router of another project."""

from django.contrib.admin import AdminSite
from django.contrib.admin.apps import AdminConfig

__all__ = ["OtherAdmin", "OtherSite", "Replica"]


class OtherSite(AdminSite):
    site_header = "Another site"


class OtherAdmin(AdminConfig):
    default_site = "tests.matrix.sites.OtherSite"


class Replica:
    """Reads what is of django_ray from the replica."""

    def db_for_read(self, model, **hints):
        return "replica" if model._meta.app_label == "django_ray" else None

    def db_for_write(self, model, **hints):
        return "default"

    def allow_relation(self, *_, **__):
        return True


def __getattr__(name):
    """Make a site when the models are there."""
    from django_ray.admin import ExecutionAdmin, FlowAdmin, GateAdmin, QueueAdmin, ScheduleAdmin, SupervisorAdmin
    from django_ray.models import RayFlow, RayGate, RayQueue, RaySchedule, RayTaskExecution, RayWorker

    admins = {
        RayTaskExecution: ExecutionAdmin, RayQueue: QueueAdmin, RaySchedule: ScheduleAdmin, RayWorker: SupervisorAdmin,
        RayGate: GateAdmin, RayFlow: FlowAdmin,
    }  # fmt: skip
    models = {"second": list(admins), "only_queues": [RayQueue], "only_executions": [RayTaskExecution, RaySchedule]}
    if name not in models:
        raise AttributeError(name)
    site = globals()[name] = OtherSite(name)
    for model in models[name]:
        site.register(model, admins[model])
    return site
