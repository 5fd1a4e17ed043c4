"""The admin: executions, flows, queues (a live page), gates, schedules and supervisors. What can be done are the verbs.

Fast however many rows there are: counts stop at a number, lists follow the primary key, which is the order of
enqueueing, and filters that no index serves look at the newest executions alone.
"""

from django_ray.admin.executions import ExecutionAdmin
from django_ray.admin.flows import FlowAdmin
from django_ray.admin.gates import GateAdmin
from django_ray.admin.queues import QueueAdmin
from django_ray.admin.schedules import ScheduleAdmin
from django_ray.admin.supervisors import SupervisorAdmin

__all__ = ["ExecutionAdmin", "FlowAdmin", "GateAdmin", "QueueAdmin", "ScheduleAdmin", "SupervisorAdmin"]
