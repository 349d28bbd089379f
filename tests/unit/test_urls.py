"""No spelling of a URL shows its password."""

import pytest

from shared.urls import is_ambiguous, parts, without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@h:1/0", "redis://:***@h:1/0"),
        ("rediss://u:hunter2@h", "rediss://u:***@h"),
        ("postgresql://u:hun@ter2@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:hun/ter2@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h/d?user=u&password=hunter2&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("postgresql://h/d?sslpassword=hunter2", "postgresql://h/d?sslpassword=***"),
        ("rediss://h/0?ssl_password=hunter2", "rediss://h/0?ssl_password=***"),
        ("u:hunter2@h:5/d", "u:***@h:5/d"),
        ("redis:/u:hunter2@h", "redis:/u:***@h"),
        ("host=h password=hunter2 user=u", "host=h password=*** user=u"),
        ("host=h password='hunter2 and more' user=u", "host=h password=*** user=u"),
        ("redis://u@h:6379/0", "redis://u@h:6379/0"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
    ],
)
def test_the_password_is_hidden_and_nothing_else(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("url", "ambiguous"),
    [
        ("redis://:a%40b@h:1/0", False),
        ("postgresql://u:p@h:1/d?options=-c%20x@y", False),
        ("redis://:a@b@h:1/0", True),
        ("redis://:1/2@h:1/0", True),
    ],
)
def test_a_special_character_left_in_a_password_is_noticed(url: str, ambiguous: bool) -> None:
    assert is_ambiguous(url) is ambiguous


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://h:1/0", {"REDIS_HOST": "h", "REDIS_PORT": "1"}),
        ("redis://:a%2Fb@h", {"REDIS_HOST": "h", "REDIS_PORT": "6379", "REDIS_PASSWORD": "a/b"}),
        ("redis://user:a@h:1", {}),
        ("rediss://h:1", {}),
        ("unix:///run/redis.sock", {}),
    ],
)
def test_parts_of_a_url_for_programs_that_take_no_url(url: str, found: dict[str, str]) -> None:
    assert parts(url) == found
