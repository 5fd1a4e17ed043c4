"""Code of a project that raises what is no Exception wherever it is asked for something: test_outside_the_body.py."""

import sys

from django.tasks import task

from django_ray.runtime.output import Output

NO_EXCEPTIONS = [SystemExit(3), KeyboardInterrupt("k"), GeneratorExit("g")]


class Evil(Exception):
    """Raises what it was made with wherever it is asked."""

    def __init__(self, place, error):
        super().__init__()
        self.place, self.error = place, error

    def _answer(self, place, answer):
        if self.place == place:
            raise self.error
        return answer

    def __str__(self):
        return self._answer("__str__", "asked politely")

    def __getattr__(self, name):
        if name in {"place", "error"}:
            raise AttributeError(name)
        return self._answer("__getattr__", None)

    @property
    def __notes__(self):
        return self._answer("__notes__", [])


class EvilClass(type):
    def __getattribute__(cls, name):
        if name in {"__module__", "__qualname__", "__mro__"}:
            raise SystemExit(name)
        return super().__getattribute__(name)


class OfEvilClass(Exception, metaclass=EvilClass):
    pass


class NotAText(str):
    __slots__ = ()

    def replace(self, *_):
        raise KeyboardInterrupt

    def encode(self, *_):
        raise KeyboardInterrupt


class Evils:
    """What a result is made of."""

    def __init__(self, error):
        self.error = error

    def __json__(self):
        raise self.error


@task
def raises_evil(place, name):
    raise Evil(place, next(error for error in NO_EXCEPTIONS if type(error).__name__ == name))


@task
def raises_of_evil_class():
    raise OfEvilClass("all the same")


@task
def raises_with_a_text_of_its_own():
    class Texted(Exception):
        def __str__(self):
            return NotAText("a\x00b")

    raise Texted


@task
def returns_evil(name):
    return Evils(next(error for error in NO_EXCEPTIONS if type(error).__name__ == name))


class Silent:
    def write(self, text):
        if text == "\n":
            raise SystemExit("the end of the line")
        return len(text)


@task
def leaves_an_evil_stream():
    sys.stdout = Silent()
    Output.entered[-1].add("half a line")
    return "done"
