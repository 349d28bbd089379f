"""What is wrong in a pipeline file, with the line where it stands."""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from shared.errors import ConfigurationError
from shared.toml_lines import Place, line_of


class Misplaced(ValueError):
    """A mistake that a check of the whole found in one part: ``place`` leads there from where it was checked."""

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class Mistake:
    """Something wrong in ``pipeline.toml``: the line where that is known, the place (``table.0.mode``), a sentence."""

    line: int | None
    place: str
    message: str


class PipelineError(ConfigurationError):
    """A pipeline file that cannot be used; its text has a line for each mistake."""

    def __init__(self, path: Path, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(described(path, one.line, one.place, one.message) for one in mistakes))
        self.path = path
        self.mistakes = mistakes


def described(path: Path | str, line: int | None, place: str, message: str) -> str:
    """A mistake as compilers write it: ``path:line: place: message``."""
    where = f"{path}:{line}" if line else str(path)
    return ": ".join([where, *([place] if place else []), message])


def syntax_mistake(text: str, message: str) -> Mistake:
    """What the parser says, with its line at the front."""
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if found is None:
        return Mistake(None, "", f"{message}.")
    line = int(found[1]) if found[1] else len(text.splitlines())
    column = f" (column {found[2]})" if found[2] else " (at the end of the file)"
    return Mistake(line, "", f"no TOML: {message[: found.start()]}{column}.")


def mistakes_of(text: str, error: ValidationError, file: type[BaseModel]) -> Iterator[Mistake]:
    """What pydantic found wrong in a text that is valid TOML; ``file`` is the model of the whole."""
    found = error.errors(include_url=False)
    misspelt = [(*one["loc"][:-1], _nearest(file, one["loc"])) for one in found if one["type"] == "extra_forbidden"]
    for one in found:
        loc = one["loc"]
        if one["type"] == "too_short" and any(other["loc"][:-1][: len(loc)] == loc for other in found):
            continue  # What is wrong with its items is said there; pydantic does not count them then.
        if one["type"] == "missing" and loc in misspelt:
            continue
        cause = (one.get("ctx") or {}).get("error")
        place = _without_tags(loc)
        place += cause.place if isinstance(cause, Misplaced) else ()
        sentence = _sentence(file, one, place, cause)
        ending = "" if sentence.endswith("?") else "."
        yield Mistake(line_of(text, place), ".".join(map(str, place)), sentence + ending)


def _without_tags(loc: Place) -> tuple[str | int, ...]:
    """The place in the file: pydantic names also the choice that it made between types, and keys as `[key]`."""
    place: list[str | int] = []
    for index, part in enumerate(loc):
        if part == "[key]" or (part in ("path", "text") and place == ["ingest", "type"] and index == 2):
            continue
        place.append(part)
    return tuple(place)


def _sentence(file: type[BaseModel], one: Mapping[str, Any], place: Place, cause: object) -> str:
    if one["type"] == "extra_forbidden":
        near = _nearest(file, place)
        hint = f"did you mean {near}?" if near else f"there are: {', '.join(_names_beside(file, place))}"
        return f"there is no such setting; {hint}"
    if one["type"] == "missing":
        return "it is missing"
    if isinstance(cause, ValueError):
        return str(cause)
    given = one["input"]
    return str(one["msg"]) + (f", not {given!r}" if isinstance(given, str | int | float) else "")


def _nearest(file: type[BaseModel], place: Place) -> str | None:
    """The setting whose name is most like the last part of a place."""
    return next(iter(difflib.get_close_matches(str(place[-1]), _names_beside(file, place), n=1)), None)


def _names_beside(file: type[BaseModel], place: Place) -> list[str]:
    """What may be set in the section that holds the last part of a place."""
    section = file
    for part in place[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _section_in(one))), None)
