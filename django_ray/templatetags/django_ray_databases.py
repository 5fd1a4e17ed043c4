"""What addresses of the admin's pages say of a database, where executions live in several; nothing of the first one."""

from __future__ import annotations

from urllib.parse import urlencode

from django import template

from django_ray.databases import database_of, database_of_row, databases

__all__ = ["DATABASE", "PRESERVED", "of_list", "of_page"]

DATABASE = "database"  # The parameter of a list.
PRESERVED = "_changelist_filters"  # In which Django itself keeps the parameters of a list on the pages of its rows.

register = template.Library()
register.filter("database_of_backend", database_of)
register.filter("database_of_row", database_of_row)


@register.filter
def of_list(database: str) -> str:
    """Return what is added to the parameters of a list."""
    return "" if database == databases()[0] else f"&{urlencode({DATABASE: database})}"


@register.filter
def of_page(database: str) -> str:
    """Return what is added to the address of the page of one row, whose number is of its database."""
    return "" if database == databases()[0] else f"?{urlencode({PRESERVED: urlencode({DATABASE: database})})}"
