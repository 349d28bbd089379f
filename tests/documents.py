"""Command blocks of the documentation, found by their fences.

```sh         runs as it stands: all of a page, in order, as one script
```sh engine  needs a container engine, or containers: looked at, not run
```sh host    needs root, systemd or a host of its own: looked at, not run
```sh make    is what CI itself runs
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from bargeline.cli import root

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")])
KINDS = ("", "engine", "host", "make")
_FENCE = re.compile(r"^```sh ?(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_OUR_FILE = re.compile(r"(?<![\w./-])(?:deploy|docs|config|migrations|requirements)/[\w./-]*\w")


@dataclass(frozen=True)
class Block:
    """One block of commands and where it stands."""

    page: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text()
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["kind"], found["text"])
        for found in _FENCE.finditer(text)
    ]


def named_files(text: str) -> list[str]:
    """Files of the project that a text of commands names."""
    return _OUR_FILE.findall(text)


def check_invocation(words: list[str]) -> None:
    """Parse the words after ``bargeline`` as the command would; raises click.UsageError."""
    group: click.Command = root
    context = click.Context(group, info_name="bargeline")
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        found = group.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"there is no command {words[0]}")
        group, words = found, words[1:]
        context = click.Context(group, info_name=group.name, parent=context)
    group.make_parser(context).parse_args(args=list(words))


def invocations(text: str) -> Iterator[list[str]]:
    """The arguments of every ``bargeline …`` in a text of commands."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        for part in re.split(r"\|\|?|&&|;|\$\(|\)\"?", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                continue  # half of something quoted: what is run is run, and the shell looks at its syntax
            for index in _starts(words)[:1]:
                if all("=" in word or word in ("exec", "env", "sudo", "-u", "bargeline") for word in words[:index]):
                    yield [word for word in words[index + 1 :] if not re.match(r"\d?[<>]", word)]


def _starts(words: list[str]) -> list[int]:
    """Where a word is our command, and not a user or a group of that name."""
    return [
        index
        for index, word in enumerate(words)
        if word.rpartition("/")[2] == "bargeline" and words[max(index - 1, 0)] not in ("-u", "-g", "-o")
    ]
