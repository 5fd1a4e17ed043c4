"""A database engine of its own, as those for tenants are: the wrapper knows a schema, and its cursors set it."""

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.schema_name = "public"

    def set_schema(self, name):
        self.schema_name = name
