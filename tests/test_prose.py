"""The check of the prose finds what it is for, and nothing in code; the pages are clean."""

import pytest

from scripts import check_prose


@pytest.mark.parametrize(
    "riddle",
    [
        "Who comes or goes tells the others.",
        "A supervisor who comes or goes tells the others.",
        "What cannot be meant is refused.",
        "A supervisor is dead and will be found within a minute.",
        "It is tried again more and more seldom.",
        "Three statements, and none of them a claim unless something is claimable.",
        "It is tried again more and\nmore seldom.",
        "Flows cost little. Who enqueues without results pays nothing.",
    ],
)
def test_a_riddle_is_found_with_its_line(riddle):
    ((line, phrase, advice),) = check_prose.findings(f"# Tasks\n\n{riddle}\n")
    assert line == 3
    assert phrase
    assert advice


@pytest.mark.parametrize(
    "text",
    [
        "Nodes join and leave. Who may do what? It is tried again less and less often.",
        "```python\nraise ValueError('What cannot be meant')\n```\n",
        "The option `--more-and-more seldom` and a [link](what/cannot/be/meant.md).",
        "The chord is enough.",
    ],
)
def test_plain_words_and_code_are_left_alone(text):
    assert check_prose.findings(text) == []


def test_a_sentence_of_more_than_fifty_words_is_found_and_others_are_not():
    words = " ".join(["word"] * 50)
    assert check_prose.long_sentences(f"# Tasks\n\n{words}.\n\n- {words}\n- {words}\n\n| {words} {words} |\n") == []
    ((line, beginning, _),) = check_prose.long_sentences(f"# Tasks\n\nShort.\n{words},\nand more.\n")
    assert (line, beginning) == (4, "word word word word word word ...")


def test_the_pages_have_no_riddles(capsys):
    assert check_prose.main([]) == 0, capsys.readouterr().out
    assert {"README.md", "index.md", "reliability.md"} <= {page.name for page in check_prose.PAGES}


def test_what_is_found_is_printed_with_its_place(capsys, monkeypatch, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("One.\nWhat cannot be meant is refused.\n")
    monkeypatch.setattr(check_prose, "ROOT", tmp_path)
    monkeypatch.setattr(check_prose, "PAGES", [page])
    assert check_prose.main([str(page)]) == 1
    assert capsys.readouterr().out.startswith("page.md:2: 'What cannot be meant': write what it is")
