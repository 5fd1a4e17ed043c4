"""What tasks write: in the supervisor's log with their names, and on their rows, bounded."""

import io
import logging
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest
from django.tasks import TaskResultStatus, task_backends

from django_ray.models import RayTaskExecution, State
from django_ray.runtime.output import MOST_CHARACTERS, MOST_LINES, Output, label_output
from django_ray.snapshot import snapshot
from tests import tasks
from tests.supervisors import until


def shown(*texts):
    output = Output("x 1")
    return "".join(map(output.add, texts)), output.text


@pytest.mark.parametrize(
    ("texts", "labelled", "kept"),
    [
        (["one\n"], "[x 1] one\n", "one"),
        (["one\ntwo\n"], "[x 1] one\n[x 1] two\n", "one\ntwo"),
        (["a", "b", "c\n"], "[x 1] abc\n", "abc"),
        (["(Pdb) "], "[x 1] (Pdb) ", "(Pdb) "),
        (["", "\n", "x"], "[x 1] \n[x 1] x", "\nx"),
        (["\r10 %", "\r20 %", "\rdone\n"], "[x 1] \r10 %\r20 %\rdone\n", "done"),
        (["windows\r\n"], "[x 1] windows\r\n", "windows"),
        (["one\u2028line\x0b\n"], "[x 1] one\u2028line\x0b\n", "one\u2028line\x0b"),
        (["a\x00b\n"], "[x 1] a\x00b\n", "a\\x00b"),
        ([], "", ""),
    ],
)
def test_each_line_is_labelled_at_once_and_kept(texts, labelled, kept):
    assert shown(*texts) == (labelled, kept)


def test_the_last_lines_are_kept():
    _, kept = shown(*(f"{number}\n" for number in range(10_000)))
    assert kept.split("\n") == [str(number) for number in range(10_000 - MOST_LINES, 10_000)]


def test_a_line_without_end_is_bounded_while_it_grows():
    output = Output("x")
    for _ in range(10_000):
        output.add("a" * 100)
    assert output.text == "a" * MOST_CHARACTERS


@contextmanager
def labelled_process():
    """Standard output and standard error of a process whose logging was set up before."""
    out, err = io.StringIO(), io.StringIO()
    logger = logging.getLogger("tests.output")
    with redirect_stdout(out), redirect_stderr(err):
        logger.addHandler(handler := logging.StreamHandler())
        label_output()
        label_output()
        yield out, err, logger
        logger.removeHandler(handler)


def test_what_is_written_outside_of_a_task_is_left_alone():
    with labelled_process() as (out, err, logger):
        print("before")
        logger.warning("before")
        with Output("x") as output:
            print("inside")
            logger.warning("inside")
            sys.stdout.writelines(["a\n", "b"])
        print("after")
    assert out.getvalue() == "before\n[x] inside\n[x] a\n[x] b\nafter\n"
    assert err.getvalue() == "before\n[x] inside\n"
    assert output.text == "inside\ninside\na\nb"


def test_a_task_inside_a_task_leaves_the_rest_to_the_outer_one():
    with labelled_process() as (out, _, _), Output("x") as outer:
        with Output("y") as inner:
            print("inside")
        print("outside")
    assert out.getvalue() == "[y] inside\n[x] outside\n"
    assert (outer.text, inner.text) == ("outside", "inside")


def test_a_body_that_ends_late_does_not_end_the_next_one():
    with labelled_process() as (out, _, _):
        late, following = Output("late"), Output("next")
        late.__enter__()
        with following:
            late.__exit__(None, None, None)
            print("still here")
    assert out.getvalue() == "[next] still here\n"


def test_a_stream_that_is_closed_costs_nothing():
    with labelled_process() as (out, _, _), Output("x"):
        sys.stdout.write("no newline")
        out.close()


def row_of(result):
    return RayTaskExecution.objects.get(pk=result.id)


def check(result, supervisor):
    label = f"[tests.tasks.write_lines {result.id} #1 default] "
    assert result.wait(timeout=60).status == TaskResultStatus.SUCCESSFUL
    kept = row_of(result).output.split("\n")
    assert kept == [*(f"line {number}" for number in range(200 - MOST_LINES + 1, 200)), "the end"]
    awaited = {"a warning", "to standard error", "line 0", "line 199", "the end"}
    while awaited:
        awaited.discard(supervisor.wait_for(label).rstrip("\n").partition(label)[2])


@pytest.mark.django_db(transaction=True)
def test_on_ray_the_lines_are_in_the_log_and_on_the_row(on_ray):
    check(tasks.write_lines.enqueue(200, "the end"), on_ray)


@pytest.mark.django_db(transaction=True)
def test_in_this_process_they_are_as_well(listen):
    supervisor = listen("--sync", "--backend", "any")  # which the other supervisor of this module does not serve
    check(tasks.write_lines.using(backend="any").enqueue(200, "the end"), supervisor)


@pytest.mark.django_db(transaction=True)
def test_what_a_body_in_this_process_does_now(listen, tmp_path):
    supervisor = listen("--sync", "--backend", "any")
    result = tasks.touch_and_wait.using(backend="any").enqueue(str(tmp_path / "here"))
    until((tmp_path / "here").exists)
    found = snapshot(result.id)
    assert found.process == supervisor.process.pid
    assert "touch_and_wait" in found.stack[0]
    (tmp_path / "here.go").touch()
    assert result.wait(timeout=60).return_value == "waited"


@pytest.mark.django_db(transaction=True)
def test_a_failure_comes_with_what_it_wrote(on_ray):
    row = row_of(tasks.write_and_fail.enqueue().wait(timeout=60))
    assert (row.state, row.output) == (State.FAILED, "about to fail")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("how", ["cancelled", "timed out"])
def test_what_is_stopped_comes_with_what_it_wrote(on_ray, tmp_path, how):
    task = tasks.write_and_loop.using(timeout=1, max_attempts=1) if how == "timed out" else tasks.write_and_loop
    result = task.enqueue(str(tmp_path / "started"))
    until((tmp_path / "started").exists)
    if how == "cancelled":
        result.cancel()
    row = row_of(result.wait(timeout=60))
    assert row.state in {State.CANCELLED, State.FAILED}
    assert row.output == "about to loop"


@pytest.mark.django_db(transaction=True)
def test_many_in_one_call_do_not_mix(on_ray):
    calls = [(tasks.write_lines, (0, str(number)), {}) for number in range(50)]
    results = task_backends["default"].enqueue_many(calls)
    for number, result in enumerate(results):
        result.wait(timeout=60)
        assert row_of(result).output == f"a warning\nto standard error\n{number}"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("stream", ["none", "closed", "other"])
def test_a_body_without_streams_starts_subprocesses_all_the_same(on_ray, stream):
    result = tasks.write_from_below_without_streams.enqueue(stream).wait(timeout=60)
    assert result.return_value == "still works\n", result.errors


@pytest.mark.django_db(transaction=True)
def test_a_task_that_writes_nothing_stores_nothing(on_ray):
    assert row_of(tasks.add.enqueue(1, 2).wait(timeout=60)).output is None
