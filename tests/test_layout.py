"""How the graph of a flow is drawn, and what of it is one box: pure functions."""

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_ray import layout
from django_ray.folding import Link, Member, folded
from django_ray.layout import HEIGHT, WIDTH, arranged, layers_of

CHAIN = [(0, 1), (1, 2)]


def overlap(one, other):
    return abs(one[0] - other[0]) < WIDTH and abs(one[1] - other[1]) < HEIGHT


def test_a_chain_is_a_straight_line():
    drawing = arranged(3, CHAIN)
    assert [y for _, y in drawing.boxes] == [12.0, 12.0, 12.0]
    assert [x for x, _ in drawing.boxes] == [12.0, 272.0, 532.0]
    assert drawing.paths == ["M212 39C242 39 242 39 272 39", "M472 39C502 39 502 39 532 39"]
    assert (drawing.width, drawing.height) == (744.0, 78.0)


def test_nothing_is_drawn_of_nothing():
    drawing = arranged(0, [])
    assert (list(drawing.boxes), list(drawing.paths)) == ([], [])
    assert arranged(1, []).boxes == [(12.0, 12.0)]


def test_the_layer_is_that_of_the_longest_way():
    assert layers_of(4, [(0, 1), (1, 2), (0, 2), (2, 3), (0, 3)]) == [0, 1, 2, 3]


def test_who_is_waited_for_by_all_stands_in_the_middle():
    drawing = arranged(4, [(0, 1), (0, 2), (0, 3)])
    assert drawing.boxes[0][1] == drawing.boxes[2][1]


def test_lines_that_can_do_without_do_not_cross():
    # Drawn in the order of their numbers, each would cross the other.
    drawing = arranged(4, [(0, 3), (1, 2)])
    above = [drawing.boxes[number][1] for number in range(4)]
    assert (above[0] < above[1]) == (above[3] < above[2])


def test_a_long_line_passes_beside_the_boxes_between():
    drawing = arranged(3, [*CHAIN, (0, 2)])
    passes = float(drawing.paths[2].split("H")[0].split()[-1])
    assert not drawing.boxes[1][1] <= passes <= drawing.boxes[1][1] + HEIGHT


def test_a_circle_is_drawn_all_the_same():
    assert layers_of(3, [(0, 1), (1, 2), (2, 0)]) == [0, 1, 2]
    drawing = arranged(3, [(0, 1), (1, 2), (2, 0), (1, 1)])
    assert len(drawing.paths) == 4
    assert not any(overlap(*pair) for pair in combinations(drawing.boxes, 2))


def test_with_too_many_bends_lines_go_straight(monkeypatch):
    monkeypatch.setattr(layout, "MOST_BENDS", 0)
    assert "H" not in arranged(3, [*CHAIN, (0, 2)]).paths[2]


graphs = st.integers(1, 30).flatmap(
    lambda number: st.tuples(
        st.just(number), st.lists(st.tuples(st.integers(0, number - 1), st.integers(0, number - 1)), max_size=80)
    )
)


@given(graphs)
@settings(max_examples=200, deadline=None)
def test_no_box_stands_over_another_whatever_the_lines(graph):
    number, lines = graph
    drawing = arranged(number, lines)
    assert len(drawing.boxes) == number
    assert len(drawing.paths) == len(lines)
    for x, y in drawing.boxes:
        assert 0 <= x <= drawing.width - WIDTH
        assert 0 <= y <= drawing.height - HEIGHT
    assert not any(overlap(*pair) for pair in combinations(drawing.boxes, 2))
    assert arranged(number, lines) == drawing


@given(graphs)
@settings(max_examples=200, deadline=None)
def test_without_circles_lines_lead_to_the_right(graph):
    number, lines = graph
    forth = [(min(line), max(line)) for line in lines if line[0] != line[1]]
    layers = layers_of(number, forth)
    assert all(layers[source] < layers[target] for source, target in forth)
    assert all(layers[box] == 0 or any(target == box for _, target in forth) for box in range(number))


def test_two_hundred_boxes_are_few_steps(monkeypatch):
    """Counted, not timed: each sweep asks each item once."""
    asked = 0
    distance = layout._Grid._wish

    def count(self, place):
        nonlocal asked
        asked += 1
        return distance(self, place)

    monkeypatch.setattr(layout._Grid, "_wish", count)
    chance = random.Random(1)
    arranged(200, [(chance.randrange(box), box) for box in range(1, 200) for _ in range(5)])
    assert asked <= (200 + layout.MOST_BENDS) * 8


# What is one box.


def member(number, path="a", state="READY", **said):
    return Member(id=f"{number:04}", path=path, state=state, **said)


def edges(*pairs, met=False):
    return [(f"{up:04}", f"{down:04}", met) for up, down in pairs]


def shape(graph):
    return [(stack.first.path, len(stack.members)) for stack in graph.stacks]


def test_few_that_are_alike_are_shown_each():
    graph = folded([member(number) for number in range(12)], [])
    assert shape(graph) == [("a", 1)] * 12


def test_many_that_are_alike_are_a_stack_with_counts():
    members = [member(number, state="FAILED" if number == 7 else "READY") for number in range(30)]
    (stack,) = folded(members, []).stacks
    assert stack.states == {"READY": 29, "FAILED": 1}
    assert not stack.is_one
    assert stack.first.id == "0000"


def test_chains_side_by_side_are_folded_step_by_step():
    members = [
        *(member(number, "fetch") for number in range(50)),
        *(member(number, "read", "WAITING") for number in range(50, 100)),
        member(100, "merge", "WAITING"),
    ]
    graph = folded(
        members, edges(*((number, number + 50) for number in range(50)), *((n, 100) for n in range(50, 100)))
    )
    assert shape(graph) == [("fetch", 50), ("read", 50), ("merge", 1)]
    assert graph.links == [Link(0, 1, 50, 0), Link(1, 2, 50, 0)]


def test_what_waits_for_something_else_is_not_alike():
    members = [*(member(number) for number in range(40)), member(100, "one"), member(101, "other")]
    half = [(number, 100 + number % 2) for number in range(40)]
    assert shape(folded(members, edges(*half))) == [("a", 20), ("a", 20), ("one", 1), ("other", 1)]


def test_a_chain_of_one_task_is_no_stack():
    members = [member(number) for number in range(40)]
    graph = folded(members, edges(*((number, number + 1) for number in range(39))))
    assert shape(graph) == [("a", 1)] * 40


def test_where_there_would_be_too_many_boxes_fewer_are_shown_each():
    members = [member(number, f"{number // 10:03}") for number in range(100)]
    assert shape(folded(members, [])) == [(f"{number:03}", 10) for number in range(10)]


def test_what_a_parent_has_enqueued_is_linked_to_it_but_for_what_follows():
    members = [member(0, "parent"), *(member(number, "b", parent="0000") for number in (1, 2)),
               member(3, "c", "WAITING", parent="0000")]  # fmt: skip
    graph = folded(members, edges((1, 3), (2, 3), met=True))
    assert graph.links == [Link(0, 1), Link(0, 2), Link(1, 3, 1, 1), Link(2, 3, 1, 1)]


def test_edges_and_parents_that_are_not_there_are_left_out():
    graph = folded([member(1, parent="9999")], edges((5, 1), (1, 6)))
    assert (shape(graph), graph.links) == ([("a", 1)], [])


@pytest.mark.parametrize("number", [2, 40])
def test_circles_do_no_harm(number):
    members = [member(one, parent=f"{(one + 1) % number:04}") for one in range(number)]
    graph = folded(members, edges(*((one, (one + 1) % number) for one in range(number)), (0, 0)))
    assert sum(len(stack.members) for stack in graph.stacks) == number
    assert all(link.source != link.target for link in graph.links)


@given(graphs)
@settings(max_examples=100, deadline=None)
def test_nobody_is_lost_and_every_edge_is_counted(graph):
    number, lines = graph
    pairs = sorted({(min(line), max(line)) for line in lines if line[0] != line[1]})
    found = folded([member(one, "ab"[one % 2]) for one in range(number)], edges(*pairs))
    assert sorted(one.id for stack in found.stacks for one in stack.members) == [f"{one:04}" for one in range(number)]
    assert sum(link.number for link in found.links) == len(pairs)
