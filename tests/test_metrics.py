"""--metrics-port: what Prometheus scrapes and what probes are told."""

import re
import socket
import sys
import threading
from argparse import ArgumentParser, Namespace
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from anyio import current_time, fail_after, sleep, to_thread
from prometheus_client.parser import text_string_to_metric_families

from django_ray.options import Options
from django_ray_worker.core.exceptions import Misconfigured
from django_ray_worker.main import _endpoint as endpoint_of
from django_ray_worker.main import add_arguments
from django_ray_worker.showing import endpoint as module
from django_ray_worker.showing.endpoint import Endpoint
from django_ray_worker.showing.monitor import AILING_SECONDS, Monitor
from django_ray_worker.stop import Stop
from tests.supervisors import Instant, Listen, living, until
from tests.test_outage import server  # noqa: F401

INSERT = (
    "INSERT INTO django_ray_execution (callable_path, queue_name)"
    " SELECT 'tests.tasks.add', %s FROM generate_series(1, %s)"
)


def read(port, path):
    """Return the status and the text."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def get(endpoint, path):
    return await to_thread.run_sync(read, endpoint.port, path)


def samples(text):
    """Return (name, labels) -> value."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def endpoint():
    """One that a test has to serve."""
    return Endpoint("127.0.0.1", 0)


async def ready(endpoint):
    with fail_after(20):
        while (answer := await get(endpoint, "/readyz"))[0] != 200:  # noqa: ASYNC110
            await sleep(0.01)
    return answer


async def test_executions_are_counted_by_queue_and_outcome(database, connect, endpoint):
    session, executor = connect(), Instant()
    async with living(database, executor, endpoint=endpoint):
        session.execute(INSERT, ["default", 3])
        session.execute(INSERT, ["other", 2])
        await executor.has_run(5)
        with fail_after(20):
            while True:
                status, text = await get(endpoint, "/metrics")
                found = samples(text)
                if found.get(("django_ray_attempts_total", "other", "succeeded")) == 2:
                    break
    assert status == 200
    assert found["django_ray_attempts_total", "default", "succeeded"] == 3
    for name in ("wait", "run"):
        assert found[f"django_ray_{name}_seconds_count", "default"] == 3
        assert found[f"django_ray_{name}_seconds_bucket", "+Inf", "other"] == 2
        assert (f"django_ray_{name}_seconds_bucket", "0.001", "default") in found
        assert (f"django_ray_{name}_seconds_bucket", "3600.0", "default") in found
    assert found["django_ray_run_seconds_bucket", "0.0025", "default"] == 3


async def test_every_outcome_of_a_queue_is_there_before_the_first_one_of_it(database, connect, endpoint):
    """Else a counter would begin with 1, of which Prometheus sees no increase."""
    session, executor = connect(), Holding()
    async with living(database, executor, endpoint=endpoint, grace=0):
        session.execute(INSERT, ["default", 1])
        await executor.has_run(1)
        _, text = await get(endpoint, "/metrics")
    found = {key[1:]: value for key, value in samples(text).items() if key[0] == "django_ray_attempts_total"}
    outcomes = ("succeeded", "failed", "retried", "cancelled", "postponed")
    assert found == {tuple(sorted(("default", outcome))): 0 for outcome in outcomes}


async def test_how_long_pruning_has_not_got_on_is_shown_where_it_is_asked_for(database, endpoint):
    async with living(database, Instant(), endpoint=endpoint) as life:
        await ready(endpoint)
        assert "prune" not in (await get(endpoint, "/metrics"))[1]
        life.metrics.pruned_at = current_time() - 7200
        _, text = await get(endpoint, "/metrics")
    assert 7200 <= samples(text)["django_ray_prune_idle_seconds",] < 7300


async def test_a_supervisor_that_prunes_says_so(database, endpoint):
    async with living(database, Instant(), endpoint=endpoint, options=Options(prune_after=3600)):
        with fail_after(20):
            while "prune_idle" not in (text := (await get(endpoint, "/metrics"))[1]):  # noqa: ASYNC110
                await sleep(0.01)
    assert 0 <= samples(text)["django_ray_prune_idle_seconds",] < 20


class Holding(Instant):
    """Runs for ever."""

    async def run(self, claims):
        self.ran.extend(claims)
        self._progress.set()
        await sleep(3600)


async def test_the_figures_of_the_supervisor_are_those_of_the_moment(database, connect, endpoint):
    session, executor = connect(), Holding()
    async with living(database, executor, endpoint=endpoint, grace=0) as life:
        session.execute(INSERT, ["default", 2])
        await executor.has_run(2)
        life.metrics.reconnects, life.metrics.refused, life.metrics.oldest = 3, 4, 1.5
        life.metrics.turned_away, life.metrics.expired = 8, 9
        life.metrics.ticks, life.metrics.ticks_skipped = 5, 6
        life.metrics.tick_lag, life.metrics.schedule_problems = 0.5, 7
        _, text = await get(endpoint, "/metrics")
    found = samples(text)
    assert found["django_ray_slots",] == 50
    assert found["django_ray_slots_in_use",] == 2
    assert found["django_ray_held",] == 2
    assert found["django_ray_ready",] == 1
    assert found["django_ray_reconnects_total",] == 3
    assert found["django_ray_refused_total",] == 4
    assert found["django_ray_oldest_seconds",] == 1.5
    assert (found["django_ray_turned_away_total",], found["django_ray_expired_total",]) == (8, 9)
    assert (found["django_ray_ticks_total",], found["django_ray_ticks_skipped_total",]) == (5, 6)
    assert (found["django_ray_tick_lag_seconds",], found["django_ray_schedule_problems",]) == (0.5, 7)
    for name in ("pulses_missed", "rescued", "clusters_lost", "ticks_lost"):
        assert found[f"django_ray_{name}_total",] == 0


async def test_it_is_ready_when_it_claims_and_says_why_when_not(database, endpoint):
    executor = Instant()
    async with living(database, executor, endpoint=endpoint) as life:
        assert await ready(endpoint) == (200, "ok\n")
        assert await get(endpoint, "/healthz") == (200, "ok\n")
        executor.is_usable = False
        assert await get(endpoint, "/readyz") == (503, "Ray is not there, or not yet.\n")
        executor.is_usable = True
        assert (await get(endpoint, "/readyz"))[0] == 200
        life._stop.intake.cancel()
        assert await get(endpoint, "/readyz") == (503, "It is stopping.\n")
        assert (await get(endpoint, "/healthz"))[0] == 200


async def test_without_a_database_for_long_it_is_not_healthy(database, endpoint, monkeypatch):
    async with living(database, Instant(), endpoint=endpoint) as life:
        assert await ready(endpoint) == (200, "ok\n")
        monkeypatch.setattr(life._session, "closed_at", current_time() - AILING_SECONDS + 60)
        assert await get(endpoint, "/healthz") == (200, "ok\n")
        assert (await get(endpoint, "/readyz"))[0] == 503
        life._session.closed_at -= 60
        assert await get(endpoint, "/healthz") == (503, "The database has been away for 10 minutes.\n")
        life._stop.intake.cancel()
        assert await get(endpoint, "/healthz") == (200, "ok\n")


async def test_before_the_database_answers_it_lives_and_is_not_ready(endpoint):
    with endpoint.serving(Monitor(Stop(), Instant(), endpoint.observer)):
        status, reason = await get(endpoint, "/readyz")
        assert (status, reason.startswith("It is starting")) == (503, True)
        assert (await get(endpoint, "/healthz"))[0] == 200
        assert samples((await get(endpoint, "/metrics"))[1])["django_ray_ready",] == 0
        status, reason = await get(endpoint, "/other")
        assert (status, reason) == (404, "There are /metrics, /healthz and /readyz.\n")


async def test_a_loop_that_does_not_turn_is_not_healthy(endpoint, monkeypatch):
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.1)
    answers = []

    def ask():
        answers.extend([read(endpoint.port, "/healthz"), read(endpoint.port, "/metrics")])

    with endpoint.serving(Monitor(Stop(), Instant(), endpoint.observer)):
        endpoint.observer.ended("default", "failed")
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(20)  # in the loop's own thread
    assert answers[0] == (503, "The event loop does not turn.\n")
    status, text = answers[1]
    assert status == 200
    assert samples(text)["django_ray_attempts_total", "default", "failed"] == 1
    assert "django_ray_slots" not in text


async def test_the_port_is_free_again_when_it_ends(endpoint):
    with endpoint.serving(Monitor(Stop(), Instant(), endpoint.observer)):
        assert (await get(endpoint, "/healthz"))[0] == 200
    assert not any(thread.name == "django-ray-endpoint" for thread in threading.enumerate())
    Endpoint("127.0.0.1", endpoint.port)._server.server_close()


async def test_it_ends_at_whichever_moment_of_its_wait():
    """Also between two requests, when what it waits for could be a number that another socket has by then."""
    for _ in range(200):
        again = Endpoint("127.0.0.1", 0)
        with again.serving(Monitor(Stop(), Instant(), again.observer)):
            pass
        assert not any(thread.name == "django-ray-endpoint" for thread in threading.enumerate())


def test_a_port_that_is_taken_is_refused_with_the_remedy():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=rf"--metrics-port {port} cannot be opened.*another port"):
            Endpoint("127.0.0.1", port)


def test_the_command_refuses_it_with_the_exit_code_of_a_wrong_configuration(listen):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        supervisor = listen("--sync", "--metrics-host", "127.0.0.1", "--metrics-port", port)
        assert supervisor.wait() == 78
    assert f"--metrics-port {port} cannot be opened on 127.0.0.1" in supervisor.log
    assert "Traceback" not in supervisor.log


def test_without_prometheus_client_it_is_refused_with_the_remedy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    for name in ("endpoint", "exposition"):
        monkeypatch.delitem(sys.modules, f"django_ray_worker.showing.{name}")
    with pytest.raises(SystemExit) as exit_:
        endpoint_of(Namespace(metrics_port=1, metrics_host="127.0.0.1"))
    assert exit_.value.code == 78
    assert "pip install 'django-ray-listen[metrics]'" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_what_is_no_port_is_refused(port, capsys):
    parser = ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--metrics-port", port])
    assert "--metrics-port" in capsys.readouterr().err


def test_a_database_that_goes_away_is_no_longer_ready_and_one_that_is_back_is(server):  # noqa: F811
    with Listen(None, "--sync", "--metrics-port", "0", "--metrics-host", "127.0.0.1", **server.environment) as listen:
        port = re.search(r"port (\d+)", listen.wait_for("Metrics at port"))[1]
        until(lambda: read(port, "/readyz")[0] == 200)
        done = server.enqueue("add", 1, 2)
        until(lambda: done()["finished_at"])
        server.stop_hard()
        until(lambda: read(port, "/readyz")[0] == 503, timeout=20)
        assert read(port, "/readyz")[1] == "The database is away: the listening session is not open.\n"
        assert read(port, "/healthz") == (200, "ok\n")
        server.start()
        until(lambda: read(port, "/readyz")[0] == 200)
        found = samples(read(port, "/metrics")[1])
        assert found["django_ray_reconnects_total",] == 1
        assert found["django_ray_run_seconds_sum", "default"] > 0
