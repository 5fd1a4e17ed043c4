"""Find riddles in README.md, the project files and docs/: phrases that are English word by word and that nobody says.

Each phrase was found in a page once, or is of the same kind. Beside it stands what to write instead.
    check_prose.py [FILE ...]
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
CODE = re.compile(r"^(?P<fence> *```).*?^ *```$|`[^`\n]*`|\]\([^)]*\)", re.MULTILINE | re.DOTALL)

# A regular expression -> what to write. A blank stands for any, since a phrase may go over the end of a line.
RIDDLES = {
    # A relative clause that hides who or what it is.
    r"(who|that|which|what) comes? (or|and) goe?s?": "... that join and leave",
    r"what cannot be (meant|true)": "what it is: an unknown state, a misspelt queue",
    r"what somebody else has locked": "rows that another transaction has locked",
    r"what is not as it has to be": "what is wrong",
    r"what (is|are) said of (it|them)": "what the page says about it",
    r"whatever (it|they) (is|are|was|were) about": "at whatever point",
    r"as( many)? as like": "any number of ... can",
    r"in whichever way": "in any way, however",
    r"it is looked (at|for)": "the page looks at, the supervisor looks for",
    # English word by word.
    r"(?<!there) (is|are) no (?!longer|more|other|need|one)\w+": "is not a ...",
    r"(fires?|fired|declares?)( it| them)? no more": "stops firing, does not declare any more",
    r"for so many (seconds|hours)|so many seconds": "for a number of seconds, for N seconds",
    r"but for": "except",
    r"(is|are|was|were) dead and will be found": "has died, and a peer has noticed",
    r"more and more (seldom|rarely)": "less and less often",
    r"later and later": "after growing pauses",
    r"none of them a claim": "it claims only when ...",
    r"ha(s|ve) again": "restores, returns to",
    r"(is|are|was|were) had back": "is restored",
    r"nobody r(ang|ings)": "no notification is sent",
    r"(un)?heed(s|ed|ing)?": "acts on, obeys",
    r"for want of": "because there is not enough",
    r"goes by (it|them)": "reads",
    r"(either|any|which|nodes|values)( of \w+)* will do": "... works, ... is enough",
    r"none to be sure": "nothing that makes sure",
    r"not the mean of (it|them)": "not the average",
    r"as long ago go": "are deleted after the same time",
    # Words that are not plain.
    r"thereby|therein|thereof|whereby|wherein|hereby|herein|hitherto|forthwith|albeit|lest|hence|thus": "a plain word",
    r"utili[sz]e[sd]?|utili[sz]ation": "use",
    r"in order to": "to",
    r"prior to": "before",
    r"simply|obviously|of course|needless to say": "nothing: leave it out",
}


# "Who enqueues pays." A question may begin so, and "Who may do what" is the heading of one.
WITHOUT_SUBJECT = re.compile(
    r"(?:(?<=[.:|] )|(?<=^- ))Who\s(?!may\s+do\s+what)[^.?|:]+[.|]"
    r"|(?<=[:;|] )who(?:ever)?\s(?:has|goes|lives|leaves|sleeps|comes|looks|sends|may\snot)\b",
    re.MULTILINE,
)


LONGEST = 50  # Words of a sentence. Half of that is long already.
FIGURES = {"performance.md"}  # Its sentences are lists of numbers.


def prose_of(text: str) -> str:
    """Return a text with blanks in place of code and addresses, so that each word stays in its line."""
    return CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def long_sentences(text: str) -> list[tuple[int, str, str]]:
    """Return line, beginning and advice for each sentence of more than LONGEST words, outside of tables."""
    prose = re.sub(r"^(\||#|    ).*$", "", prose_of(text), flags=re.MULTILINE)
    found = []
    # Up to its end, the end of its paragraph, or the next item of its list.
    for sentence in re.finditer(r"[^\s.!?:](?:(?!\n\s*\n|\n\s*(?:[-*]|\d+\.) |[.!?:]\s).)*", prose, re.DOTALL):
        words = re.findall(r"\S*\w\S*", sentence[0])
        if len(words) > LONGEST:
            line = prose.count("\n", 0, sentence.start()) + 1
            found.append((line, " ".join(words[:6]) + " ...", "several sentences, or a list"))
    return found


def findings(text: str) -> list[tuple[int, str, str]]:
    """Return line, phrase and advice for each riddle in a text."""
    prose = prose_of(text)
    found = [
        (match, "the subject: a supervisor that ..., a task that ...") for match in WITHOUT_SUBJECT.finditer(prose)
    ]
    for pattern, advice in RIDDLES.items():
        phrase = re.compile(rf"\b(?:{pattern})\b".replace(" ", r"\s+"), re.IGNORECASE)
        found += [(match, advice) for match in phrase.finditer(prose)]
    return sorted(
        (prose.count("\n", 0, match.start()) + 1, " ".join(match[0].split()), advice) for match, advice in found
    )


def main(names: list[str]) -> int:
    """Print what was found; return 1 if there was anything."""
    lines = []
    for page in [Path(name).resolve() for name in names] or PAGES:
        if page not in PAGES:
            continue
        text = page.read_text(encoding="utf-8")
        found = findings(text) + ([] if page.name in FIGURES else long_sentences(text))
        lines += [f"{page.relative_to(ROOT)}:{line}: {phrase!r}: write {advice}" for line, phrase, advice in found]
    print(*lines, sep="\n", end="\n" if lines else "")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
