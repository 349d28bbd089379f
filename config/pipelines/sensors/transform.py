"""Readings of sensors: what cannot be true is refused, and is a dead letter until somebody looks at the sensor."""

import msgspec

from bargeline import Event, InvalidEvent

#: °C; a sensor that says more stands in the sun, or in flames.
HIGHEST_TEMP = 60.0
LOWEST_TEMP = -100.0
#: Percent.
HIGHEST_HUMIDITY = 100.0


class Reading(msgspec.Struct):
    """One reading; in °C and percent. From plain XADD all three come as text."""

    sensor_id: str | int
    temp: float
    humidity: float


def check(event: Event[Reading]) -> Event[Reading]:
    """Refuse a reading that is out of bounds, NaN included. The id is text from here on."""
    reading = event.data
    reading.sensor_id = str(reading.sensor_id).strip()
    if not reading.sensor_id:
        raise InvalidEvent("sensor_id is empty")
    if not LOWEST_TEMP <= reading.temp <= HIGHEST_TEMP:
        raise InvalidEvent(f"temp is {reading.temp:g} °C, not from {LOWEST_TEMP:g} to {HIGHEST_TEMP:g}")
    if not 0 <= reading.humidity <= HIGHEST_HUMIDITY:
        raise InvalidEvent(f"humidity is {reading.humidity:g} %, not from 0 to {HIGHEST_HUMIDITY:g}")
    return event
