"""What the site shows of files outside docs/: CHANGELOG.md and its like as pages, source files with their text.

Links are written for a code host, by the path in the repository. Those that leave docs/ become links within the site.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?P<name>\[[\w-]+\.md)?\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
# Path in the repository -> page of the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
# Of pages in the search. Answers to questions come first; pages that explain at length, or list everything, come later.
WEIGHTS = {
    "faq.md": 2,
    "queues.md": 2,
    "troubleshooting.md": 2,
    "tutorial.md": 0.4,
    "architecture.md": 0.3,
    "changelog.md": 0.3,
    "performance.md": 0.3,
    "reference/python.md": 0.3,
    "reliability.md": 0.3,
    "security.md": 0.5,
}
ALIASES = {**PAGES, "README.md": "index.md"}


def origin_of(uri: str) -> str:
    """Return the path in the repository of what is shown as a page."""
    return next((path for path, page in PAGES.items() if page == uri), f"docs/{uri}")


def targets_in(text: str, origin: str) -> list[str]:
    """Return the paths in the repository of the files that a text links to."""
    folder = posixpath.dirname(origin)
    paths = [posixpath.normpath(posixpath.join(folder, match["path"])) for match in LINK.finditer(text)]
    return [path for path in paths if (ROOT / path).is_file()]


def shown_at(path: str) -> str:
    """Return where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return ALIASES.get(path, f"source/{path}.md")


def source_page(path: str) -> str:
    """Return a page with the text of a file."""
    language = {".py": "python", ".sql": "sql", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml"}.get(
        Path(path).suffix, ""
    )
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n````{language}\n{text}\n````\n"


def title_of(files: Files, uri: str) -> str:
    """Return the title of a page, as far as its colon."""
    file = files.get_file_from_path(uri)
    heading = re.search(r"^# ([^:\n]+)", file.content_string, re.MULTILINE) if file else None
    return heading[1] if heading else uri


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose files are outside docs/."""
    texts = {page: (ROOT / path).read_text(encoding="utf-8") for path, page in PAGES.items() if (ROOT / path).is_file()}
    linked: set[str] = set()
    for page, text in texts.items():
        linked.update(targets_in(text, origin_of(page)))
    for file in files.documentation_pages():
        linked.update(targets_in(file.content_string, origin_of(file.src_uri)))
    for path in linked:
        if not path.startswith("docs/") and path not in ALIASES:
            texts[shown_at(path)] = source_page(path)
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs names them
    """Have links that leave docs/ lead to what the site shows instead."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    # An example is found by what it is about; how it is done, the guides tell.
    weight = 0.4 if uri.startswith("examples/") else WEIGHTS.get(uri)
    if weight is not None:
        page.meta["search"] = {"boost": weight}
    origin = origin_of(uri)

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match["path"]))
        if not (ROOT / target).is_file():
            return match[0]
        there = os.path.relpath(shown_at(target), posixpath.dirname(uri) or ".")
        # On a code host the name of the file says most, here the title of the page does.
        name = f"[{title_of(files, shown_at(target))}" if match["name"] else ""
        return f"{name}]({there}{match['anchor'] or ''})"

    return LINK.sub(moved, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    r"""Show "\|" in a cell of a table as "|", as code hosts do, also in code."""
    return re.sub(r"<td[^>]*>.*?</td>", lambda cell: cell[0].replace("\\|", "|"), html, flags=re.DOTALL)
