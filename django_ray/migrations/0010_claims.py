from django_ray.migrations._brief import BriefMigration
from django_ray.migrations._operations import RunFile


class Migration(BriefMigration):
    dependencies = [("django_ray", "0009_postponed")]

    operations = [RunFile("0010_claims")]
