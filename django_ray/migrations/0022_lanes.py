from django_ray.migrations._brief import BriefMigration
from django_ray.migrations._operations import RunFile


class Migration(BriefMigration):
    """What waits for places of its own. The indexes come with the next migration."""

    dependencies = [("django_ray", "0021_flow_index")]

    operations = [RunFile("0022_lanes")]
