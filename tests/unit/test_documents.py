"""What the documentation tells to type: commands that exist, files that are there, shell that parses."""

import subprocess

import click
import pytest

from tests.documents import KINDS, PAGES, ROOT, Block, blocks, check_invocation, invocations, named_files

BLOCKS = [block for page in PAGES for block in blocks(page)]


def test_there_are_blocks() -> None:
    assert len(BLOCKS) > 3


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_blocks_parse_and_name_what_is_there(block: Block) -> None:
    assert block.kind in KINDS
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    missing = [name for name in named_files(block.text) if not (ROOT / name).exists()]
    assert not missing
    for words in invocations(block.text):
        check_invocation(words)


@pytest.mark.parametrize("words", [["scael"], ["scale", "--no-such"], ["supervisor", "paint"]])
def test_a_command_that_does_not_exist_is_noticed(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        check_invocation(words)


def test_commands_are_found_in_lines() -> None:
    text = """
        eval "$(bargeline env)" && X=1 bargeline scale transform=4 # more
        sudo -u bargeline ls; .venv/bin/bargeline down
    """
    assert list(invocations(text)) == [["env"], ["scale", "transform=4"], ["down"]]
