from django.apps import AppConfig


class Unready(AppConfig):
    """Asks for something that is away, when its ready() is called: once in a process."""

    name = "tests"
    label = "unready"
    times = 0

    def ready(self):
        from django.conf import settings

        type(self).times += 1
        assert self.times == 1, "Django never calls it twice, and so do we"
        settings.FAIL("ready")
