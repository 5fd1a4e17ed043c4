"""A supervisor and a Ray node with different versions of django-ray: what one of them does not know costs nothing."""

import json

import pytest
from django.db import connection

from django_ray.rows import ClaimedRow
from django_ray.runtime.entrypoint import invoke
from django_ray_worker.core.outcome import Missing, Raised, Refused, Returned, Unprepared
from django_ray_worker.running.answer import Answer, answer_of, outcome_of
from tests.deploys import Deploy
from tests.supervisors import database_url
from tests.test_runtime import payload

# What 0.1.0 takes from the payload of a claim: anything else makes it fail.
KEYS_OF_0_1_0 = {
    "task_id", "state", "backend", "queue_name", "priority", "callable_path", "args", "kwargs", "options", "run_after",
    "enqueued_at", "started_at", "last_attempted_at", "attempt_number", "failures", "worker_ids", "errors", "carrier",
    "finished_at", "result",
}  # fmt: skip
RETURNED = {"kind": "returned", "result": "5", "output": "said"}
RAISED = {
    "kind": "raised", "exception_class_path": "a.B", "message": "m", "traceback": "t", "mro": ["a.B"], "output": "",
}  # fmt: skip
REPORT = {
    "envelopes": [RETURNED, RAISED], "seconds": [0.1, 0.2], "is_interrupted": False, "settled": [],
    "is_rest_ready": False, "is_unprepared": False,
}  # fmt: skip
TASKS = """
from django.tasks import task

@task
def greet(name):
    return f"Hello, {name}."
"""
ON_A_NODE = """
import json, sys
from django_ray.runtime.call import invoke_on_ray
print(json.dumps(invoke_on_ray(json.loads(sys.argv[1]))))
"""
IN_A_SUPERVISOR_OF_0_1_0 = """
import json, sys
from django_ray_worker.answer import answer_of
print([type(outcome).__name__ for outcome in answer_of(json.loads(sys.argv[1])).outcomes])
"""


async def test_a_claim_sends_nothing_that_0_1_0_does_not_know(open_store, insert):
    """K4."""
    store, worker = await open_store()
    insert()
    (claim,) = (await store.claim(worker, 1)).claims
    assert json.loads(claim.payload).keys() <= KEYS_OF_0_1_0
    assert ClaimedRow(json.loads(claim.payload)).task_id == str(claim.task_id)


@pytest.mark.parametrize("lacking", [None, *sorted(KEYS_OF_0_1_0 - {"task_id", "callable_path"})])
def test_a_claim_of_another_supervisor_is_run_by_what_it_says(lacking):
    """K4."""
    said = json.loads(payload("tests.tasks.add", 2, 3, from_the_future=["what", "ever"]))
    said.pop(lacking, None)
    envelope = invoke(json.dumps(said))
    match lacking:
        case "args":
            assert envelope["exception_class_path"] == "builtins.TypeError"  # of add(), which got none
        case "worker_ids" | "attempt_number":
            assert (envelope["kind"], lacking in envelope["message"]) == ("missing", True)
        case _:
            assert (envelope["kind"], envelope["result"]) == ("returned", "5")


@pytest.mark.parametrize("claim", ["", "[]", "null", "{}", '{"task_id": 3}', '{"callable_path": "tests.tasks.add"}'])
def test_a_claim_that_is_not_understood_is_given_back(claim):
    """K4."""
    assert invoke(claim)["kind"] == "missing"


def test_options_that_the_code_of_a_node_does_not_know_are_the_supervisors_business():
    """K4: it took the execution, so it knows them."""
    once = {"max_attempts": 1, "from_the_future": 1}
    envelope = invoke(payload("tests.tasks.fail", options={"retry": once}))
    assert (envelope["kind"], envelope["exception_class_path"]) == ("raised", "builtins.ValueError")


@pytest.mark.parametrize("lacking", [None, *REPORT])
def test_a_report_of_another_node_is_read_by_what_it_says(lacking):
    """K4."""
    said = {key: value for key, value in REPORT.items() if key != lacking} | {"from_the_future": object()}
    answer = answer_of(said)
    if lacking == "envelopes":
        assert answer == Answer(outcomes=[], seconds=[], outputs=[])
        return
    assert [type(outcome) for outcome in answer.outcomes] == [Returned, Raised]
    assert (len(answer.seconds), answer.outputs, answer.is_interrupted) == (2, ["said", ""], False)


@pytest.mark.parametrize("report", [None, [], "what", 3, {}, {"envelopes": []}])
def test_a_report_that_is_not_understood_says_nothing(report):
    """K4."""
    assert answer_of(report) == Answer(outcomes=[], seconds=[], outputs=[])


@pytest.mark.parametrize(
    ("envelope", "kind"),
    [
        *(({**RAISED, "kind": kind}, outcome) for kind, outcome in (("refused", Refused), ("missing", Missing))),
        *(
            ({key: value for key, value in RAISED.items() if key != lacking}, Raised)
            for lacking in RAISED
            if lacking != "kind"
        ),
        ({**RETURNED, "from_the_future": 1}, Returned),
        ({"kind": "returned"}, Missing),
        ({"kind": "returned", "result": 5}, Missing),
        ({"kind": "from the future", "result": "5"}, Missing),
        ({"kind": ["raised"]}, Missing),
        ({}, Missing),
    ],
)
def test_an_envelope_of_another_node_is_read_by_what_it_says_or_its_execution_given_back(envelope, kind):
    """K4."""
    assert isinstance(outcome_of(envelope), kind)
    assert isinstance(answer_of({"envelopes": [envelope, RETURNED]}).outcomes[0], kind)


def test_what_a_node_that_cannot_begin_says_is_understood_by_0_1_0_as_well():
    """K3, K4."""
    report = {**REPORT, "envelopes": [{**RAISED, "kind": "missing"}], "is_unprepared": True}
    assert [type(outcome) for outcome in answer_of(report).outcomes] == [Unprepared]


@pytest.fixture
def pair(transactional_db, tmp_path, released_packages):
    with Deploy(database_url(connection), tmp_path) as deploy:
        yield deploy.version("old", TASKS, packages=released_packages), deploy.version("new", TASKS)


async def _claimed(open_store, insert):
    store, worker = await open_store()
    insert(callable_path="deployed_tasks.greet", args='["Ada"]')
    (claim,) = (await store.claim(worker, 1)).claims
    return json.dumps([claim.payload])


async def test_a_node_with_0_1_0_runs_what_todays_supervisor_claims(pair, open_store, insert):
    """K4."""
    old, _ = pair
    report = json.loads(old.run("-c", ON_A_NODE, await _claimed(open_store, insert)))
    assert answer_of(report).outcomes == [Returned('"Hello, Ada."')]


async def test_a_supervisor_of_0_1_0_understands_todays_nodes(pair, open_store, insert):
    """K4."""
    old, new = pair
    report = new.run("-c", ON_A_NODE, await _claimed(open_store, insert))
    assert old.run("-c", IN_A_SUPERVISOR_OF_0_1_0, report) == "['Returned']"


def test_for_a_supervisor_of_0_1_0_what_has_stalled_at_a_newer_node_is_a_failure(pair):
    """K4: it has not asked for it; only the defaults of a queue there can."""
    old, _ = pair
    report = {**REPORT, "envelopes": [RAISED], "seconds": [60.1], "is_interrupted": True, "overran": 60.0}
    assert old.run("-c", IN_A_SUPERVISOR_OF_0_1_0, json.dumps({**report, "has_stalled": True})) == "['Raised']"


def test_a_node_that_knows_no_stall_timeout_runs_what_has_one():
    """K4: what is unknown in the options is passed by there; here, what comes next is."""
    said = json.loads(payload("tests.tasks.add", 2, 3, options={"stall_timeout": 60, "from_the_future": 1}))
    assert invoke(json.dumps(said))["result"] == "5"
