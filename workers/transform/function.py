"""Finding the user's function and model: in the pipeline's folder first, then on PYTHONPATH."""

from collections.abc import Callable
from typing import Any

import msgspec
import pydantic

from shared import user_code
from shared.errors import ConfigurationError, InvalidEvent
from shared.events import AnyEvent, Event
from shared.pipeline import Pipeline

UserFunction = Callable[[Any], Any]
#: Decodes NDJSON into events whose data are what the user's function takes; raises when any line does not fit.
Decode = Callable[[bytes, bool], list[AnyEvent]]


def load_function(pipeline: Pipeline) -> UserFunction | None:
    """The function named by ``[transform] function``, or None where events pass unchanged."""
    reference = pipeline.file.transform.function
    if reference is None:
        return None
    found = _load(pipeline, reference, "function")
    if not callable(found):
        raise ConfigurationError(
            f"{pipeline.folder / 'pipeline.toml'}: [transform] function {reference!r} is not callable."
        )
    function: UserFunction = found
    return function


def load_decoder(pipeline: Pipeline) -> Decode:
    """A decoder for the model named by ``[transform] model``: msgspec, pydantic, or plain dicts.

    Its second argument is False for foreign entries, whose text values are then coerced.
    """
    reference = pipeline.file.transform.model
    model = dict[str, Any] if reference is None else _load(pipeline, reference, "model")
    if isinstance(model, type) and issubclass(model, pydantic.BaseModel):
        return _pydantic_decoder(model)
    kind = Event[model]  # type: ignore[valid-type]
    try:
        strict = msgspec.json.Decoder(kind)
        lax = msgspec.json.Decoder(kind, strict=False)
    except TypeError as error:
        raise ConfigurationError(
            f"{pipeline.folder / 'pipeline.toml'}: [transform] model {reference!r} is no model: {error}."
        ) from None
    return lambda lines, is_strict: (strict if is_strict else lax).decode_lines(lines)


def _pydantic_decoder(model: type[pydantic.BaseModel]) -> Decode:
    plain = msgspec.json.Decoder(Event[dict[str, Any]])

    def decode(lines: bytes, _strict: bool) -> list[AnyEvent]:
        decoded: list[AnyEvent] = plain.decode_lines(lines)
        for event in decoded:
            try:
                event.data = model.model_validate(event.data)
            except pydantic.ValidationError as error:
                raise InvalidEvent(str(error), "schema") from None
        return decoded

    return decode


def _load(pipeline: Pipeline, reference: str, what: str) -> Any:
    where = f"{pipeline.folder / 'pipeline.toml'}: [transform] {what} {reference!r}"
    return user_code.load(pipeline.folder, reference, where)
