"""Passwords, sessions, attempts, lists of people: who may use the dashboard, as values."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from cheap_passwords import cheap_hash
from hypothesis import given, settings
from hypothesis import strategies as st
from itsdangerous import URLSafeTimedSerializer

from fallback.providers.settings import Secret
from fallback.signin import (
    ANYBODY,
    COOKIE,
    OIDC_COOKIE,
    Attempts,
    DashboardSettings,
    Door,
    OidcSettings,
    PasswordHash,
    People,
    Role,
    Stranger,
)
from fallback.signin.attempts import (
    MAX_ADDRESSES,
    OF_ALL,
    OF_ALL_EVERY_S,
    OF_ONE,
    OF_ONE_EVERY_S,
)
from fallback.signin.sessions import MAX_REVOKED, Revoked, Sessions

NOW = 1_795_000_000.0
SECRET = Secret("a secret for nothing but these tests")
RIGHT, LOOKING = "correct horse", "only looking"
HASHES = {password: cheap_hash(password) for password in (RIGHT, LOOKING)}
ORIGIN = "https://llm.example.com"


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def door(clock: Clock, secret: Secret | None = SECRET, **more: Any) -> Door:
    known: dict[str, Any] = {"password": HASHES[RIGHT], "viewer_password": HASHES[LOOKING], **more}
    return Door(DashboardSettings(**known), secret, wall=clock)


# Passwords


def test_a_hash_knows_its_password_and_no_other_and_survives_its_text() -> None:
    known = HASHES[RIGHT]
    again = PasswordHash.parse(known.text())
    assert again == known
    assert again.matches(RIGHT)
    for other in ("", "correct hors", RIGHT + " ", RIGHT.upper(), "x" * 100_000):
        assert not known.matches(other)


def test_two_hashes_of_a_password_differ_and_show_nothing_of_it() -> None:
    one, two = PasswordHash.of(RIGHT), PasswordHash.of(RIGHT)
    assert one.text() != two.text()
    assert RIGHT not in repr(one) + one.text()
    assert repr(one) == "PasswordHash(***)"


def test_the_keyboard_a_password_was_typed_on_does_not_matter() -> None:
    assert PasswordHash.of("m\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen-1").matches(
        "mu\N{COMBINING DIAERESIS}nchen-1"
    )


def test_a_hash_is_scrypt_as_other_programs_make_it() -> None:
    # RFC 7914, section 12: "password", "NaCl", N 1024, r 8, p 16.
    expected = (
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830da"
        "c727afb94a83ee6d8360cbdfa2cc0640"
    )
    known = PasswordHash(n=1024, r=8, p=16, salt=b"NaCl", digest=bytes.fromhex(expected))
    assert known.matches("password")
    assert not known.matches("Password")


def test_a_hash_with_dollar_signs_is_read_too() -> None:
    known = HASHES[RIGHT]
    assert PasswordHash.parse(known.text().replace(":", "$")) == known


@pytest.mark.parametrize(
    "text",
    [
        "",
        "scrypt",
        "scrypt:16384:8:5:c2FsdHNhbHQ",
        "scrypt:16383:8:5:c2FsdHNhbHRz:aGFzaGhhc2hoYXNoaGFzaA",
        "scrypt:512:8:5:c2FsdHNhbHRz:aGFzaGhhc2hoYXNoaGFzaA",
        "scrypt:16384:0:5:c2FsdHNhbHRz:aGFzaGhhc2hoYXNoaGFzaA",
        "scrypt:16384:8:0:c2FsdHNhbHRz:aGFzaGhhc2hoYXNoaGFzaA",
        "scrypt:16384:8:65:c2FsdHNhbHRz:aGFzaGhhc2hoYXNoaGFzaA",
        "scrypt:536870912:8:1:c2FsdHNhbHRz:aGFzaGhhc2hoYXNoaGFzaA",
        "scrypt:16384:8:5:c2FsdHNhbHR:aGFzaGhhc2hoYXNoaGFzaAaaa!",
        "scrypt:16384:8:5:c2FsdHNhbHRzx:aGFzaGhhc2hoYXNoaGFzaA",
        "bcrypt:16384:8:5:c2FsdHNhbHRz:aGFzaGhhc2hoYXNoaGFzaA",
    ],
)
def test_a_bad_hash_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(expected|its) ") as caught:
        PasswordHash.parse(text)
    assert "aGFzaG" not in str(caught.value)


# Sessions


def test_a_session_gives_back_its_role_until_its_end() -> None:
    sessions = Sessions(b"secret", "parts")
    for role in Role:
        text = sessions.issue(role, now=NOW, length_s=60)
        found = sessions.visitor(text, NOW + 59)
        assert found is not None
        assert (found.role, found.until, found.email) == (role, NOW + 60, None)
        assert sessions.visitor(text, NOW + 60) is None


def test_each_session_has_a_name_of_its_own() -> None:
    sessions = Sessions(b"secret")
    names = {
        found.session
        for _ in range(100)
        if (found := sessions.visitor(sessions.issue(Role.VIEWER, now=NOW, length_s=9), NOW))
    }
    assert len(names) == 100


def test_another_secret_or_another_password_makes_nothing_of_a_session() -> None:
    text = Sessions(b"secret", "one", "two").issue(Role.OPERATOR, now=NOW, length_s=60)
    assert Sessions(b"secret", "one", "two").visitor(text, NOW) is not None
    for other in (
        Sessions(b"secret2", "one", "two"),
        Sessions(b"secret", "one2", "two"),
        Sessions(b"secret", "one", ""),
    ):
        assert other.visitor(text, NOW) is None


@settings(max_examples=300)
@given(st.data())
def test_a_session_that_was_changed_anywhere_is_nobodys(data: st.DataObject) -> None:
    sessions = Sessions(b"secret")
    text = sessions.issue(Role.VIEWER, now=NOW, length_s=60)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="utf-8"))
    changed = text[:place] + other + text[place + 1 :]
    # The last character of base64 holds bits that mean nothing, and two others may be written in two ways.
    if changed.translate(str.maketrans("+/", "-_")) != text and place != len(text) - 1:
        assert sessions.visitor(changed, NOW) is None


@given(st.text(max_size=300))
def test_any_text_is_nobodys_session_and_no_error(text: str) -> None:
    assert Sessions(b"secret").visitor(text, NOW) is None


def test_a_viewer_cannot_turn_the_text_into_an_operators() -> None:
    sessions = Sessions(b"secret")
    text = sessions.issue(Role.VIEWER, now=NOW, length_s=60)
    assert sessions.visitor(text.replace("viewer", "operator"), NOW) is None


def test_revoked_sessions_are_forgotten_once_they_would_be_over_and_never_too_many() -> None:
    revoked = Revoked()
    revoked.add("one", NOW + 10, NOW)
    revoked.add("two", NOW + 99, NOW + 11)
    assert ("one" in revoked, "two" in revoked) == (False, True)
    for number in range(MAX_REVOKED + 5):
        revoked.add(f"{number}", NOW + 1000, NOW + 12)
    assert ("0" in revoked, f"{MAX_REVOKED + 4}" in revoked) == (False, True)


def test_session_that_has_just_ended_can_be_signed_out() -> None:
    revoked = Revoked()
    revoked.add("one", NOW, NOW)
    assert "one" not in revoked


# Attempts


def test_an_address_has_so_many_attempts_and_then_waits_for_each() -> None:
    attempts = Attempts()
    assert [attempts.take("192.0.2.1", 100.0) for _ in range(OF_ONE)] == [0.0] * OF_ONE
    assert attempts.take("192.0.2.1", 100.0) == pytest.approx(OF_ONE_EVERY_S)
    assert attempts.take("192.0.2.1", 110.0) == pytest.approx(OF_ONE_EVERY_S - 10)
    assert attempts.take("192.0.2.2", 110.0) == 0.0
    assert attempts.take("192.0.2.1", 100.0 + OF_ONE_EVERY_S) == 0.0
    assert attempts.take("192.0.2.1", 100.0 + OF_ONE_EVERY_S) > 0


def test_being_refused_costs_nothing_more() -> None:
    attempts = Attempts()
    waits = [attempts.take("192.0.2.1", 100.0) for _ in range(OF_ONE + 50)]
    assert waits[OF_ONE:] == [pytest.approx(OF_ONE_EVERY_S)] * 50


def test_all_addresses_together_have_a_bucket_too() -> None:
    attempts = Attempts()
    assert not any(attempts.take(f"192.0.2.{number}", 100.0) for number in range(OF_ALL))
    assert attempts.take("198.51.100.1", 100.0) == pytest.approx(OF_ALL_EVERY_S)
    assert attempts.take("198.51.100.1", 100.0 + OF_ALL_EVERY_S) == 0.0


def test_a_right_password_gives_its_attempt_back_and_no_other() -> None:
    attempts = Attempts()
    for _ in range(OF_ONE - 1):
        attempts.take("192.0.2.1", 100.0)
    for _ in range(200):
        assert attempts.take("192.0.2.1", 100.0) == 0.0
        attempts.give_back("192.0.2.1")
    assert attempts.take("192.0.2.1", 100.0) == 0.0
    assert attempts.take("192.0.2.1", 100.0) > 0


def test_addresses_of_one_customer_count_as_one() -> None:
    attempts = Attempts()
    for number in range(OF_ONE):
        assert attempts.take(f"2001:db8:0:1::{number}", 100.0) == 0.0
    assert attempts.take("2001:db8:0:1:ffff::9", 100.0) > 0
    assert attempts.take("2001:db8:0:2::1", 100.0) == 0.0
    for _ in range(OF_ONE):
        assert attempts.take("192.0.2.9", 100.0) == 0.0
    assert attempts.take("::ffff:192.0.2.9", 100.0) > 0


def test_addresses_are_forgotten_and_never_too_many() -> None:
    attempts = Attempts()
    now = 100.0
    for number in range(MAX_ADDRESSES + 200):
        now += OF_ALL_EVERY_S / 1000
        attempts._all_full_at = 0.0  # as if the bucket of all let it happen
        attempts.take(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", now)
    assert len(attempts) == MAX_ADDRESSES
    attempts.take("192.0.2.1", now + 10_000)
    assert len(attempts) == 1


# People


@pytest.mark.parametrize(
    ("email", "is_there"),
    [
        ("alice@example.com", True),
        ("ALICE@Example.Com", True),
        ("bob@example.com", False),
        ("bob@team.org", True),
        ("bob@sub.team.org", False),
        ("bob@notteam.org", False),
        ("carol@plain.net", True),
        ("bob@team.org@evil.com", False),
        ("bob@evil.com,x@team.org", False),
        ("bob@evil.com x@team.org", False),
        ('"x@evil.com"@team.org', False),
        ("@team.org", False),
        ("team.org", False),
        ("", False),
        (None, False),
    ],
)
def test_a_list_holds_addresses_and_domains(email: str | None, is_there: bool) -> None:
    people = People.parse("alice@example.com, @team.org,plain.net,")
    assert (email in people) is is_there


def test_a_star_is_everybody_and_an_empty_list_nobody() -> None:
    assert "x@y.org" in People.parse("*")
    assert None in People.parse("a@b.org,*")
    assert not People.parse("")
    assert "x@y.org" not in People.parse(" , ")


@pytest.mark.parametrize(
    "entry", ["alice", "alice@", "alice@host", "*.example.com", "a b@c.org", "@", "**", "a@b@c.org"]
)
def test_a_bad_entry_is_told_by_its_number(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^entry 2: ") as caught:
        People.parse(f"x@y.org,{entry}")
    assert entry in {"*", "@"} or entry not in str(caught.value)


# The door


def test_a_door_without_password_and_provider_lets_anybody_operate(clock: Clock) -> None:
    opened = Door(DashboardSettings(), None, wall=clock)
    assert not opened.guarded
    assert opened.visitor({}) is ANYBODY
    assert ANYBODY.may_operate


def test_each_password_makes_its_own_role_and_a_wrong_one_nothing(clock: Clock) -> None:
    shut = door(clock)
    roles = {}
    for password in (RIGHT, LOOKING):
        text = shut.sign_in(password)
        assert text is not None
        found = shut.visitor({COOKIE: text})
        assert found is not None
        roles[password] = (found.role, found.may_operate)
    assert roles == {RIGHT: (Role.OPERATOR, True), LOOKING: (Role.VIEWER, False)}
    assert shut.sign_in("wrong") is None
    assert shut.visitor({}) is None
    assert shut.visitor({COOKIE: ""}) is None


def test_a_session_lasts_as_long_as_the_setting_says_and_ends_where_it_is_signed_out(clock: Clock) -> None:
    shut = door(clock, session_s=3600)
    text = shut.sign_in(RIGHT)
    assert text is not None
    found = shut.visitor({COOKIE: text})
    assert found is not None
    assert shut.left_s(found) == 3600
    clock.now += 3599
    assert shut.visitor({COOKIE: text}) is not None
    shut.sign_out(found)
    assert shut.visitor({COOKIE: text}) is None
    other = shut.sign_in(RIGHT)
    assert other is not None
    assert shut.visitor({COOKIE: other}) is not None
    clock.now += 3600
    assert shut.visitor({COOKIE: other}) is None


def test_a_changed_password_or_secret_ends_every_session_and_a_restart_none(clock: Clock) -> None:
    text = door(clock).sign_in(RIGHT)
    assert text is not None
    cookies = {COOKIE: text}
    assert door(clock).visitor(cookies) is not None
    assert door(clock, Secret("another secret for these tests")).visitor(cookies) is None
    assert door(clock, None).visitor(cookies) is None
    changed = PasswordHash.of(RIGHT)
    assert door(clock, password=changed).visitor(cookies) is None
    assert door(clock, viewer_password=changed).visitor(cookies) is None


OIDC = OidcSettings(
    providers={"default": "single sign-on"},
    origin=ORIGIN,
    cookie_secret=Secret("the secret of the cookie"),
    section={},
)
PEOPLE = {"operators": People.parse("alice@example.com"), "viewers": People.parse("@example.com")}


def of_provider(clock: Clock, **more: Any) -> Door:
    return door(clock, password=None, viewer_password=None, oidc=OIDC, **{**PEOPLE, **more})


def cookie(secret: str = OIDC.cookie_secret.reveal(), split: int = 0, **claims: Any) -> Mapping[str, str]:
    """Return the cookies that Streamlit sets for somebody."""
    known = {"email": "alice@example.com", "is_logged_in": True, "origin": ORIGIN, "provider": "default"}
    text = json.dumps({**known, **claims})

    def signed(name: str, value: str) -> str:
        return str(URLSafeTimedSerializer(secret, salt=name).dumps(value))

    if not split:
        return {OIDC_COOKIE: signed(OIDC_COOKIE, text)}
    parts = [text[start : start + split] for start in range(0, len(text), split)]
    chunks = {f"{OIDC_COOKIE}_{n}": signed(f"{OIDC_COOKIE}_{n}", part) for n, part in enumerate(parts, 1)}
    return {OIDC_COOKIE: signed(OIDC_COOKIE, f"chunks-{len(parts)}"), **chunks}


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    # itsdangerous stamps with the time of day and takes no other clock.
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: NOW)


@pytest.mark.usefixtures("today")
def test_of_those_whom_the_provider_signs_in_the_lists_say_who_operates(clock: Clock) -> None:
    shut = of_provider(clock)
    alice, bob = shut.visitor(cookie()), shut.visitor(cookie(email="Bob@Example.com"))
    assert alice is not None
    assert (alice.role, alice.email, alice.until) == (Role.OPERATOR, "alice@example.com", NOW + 43_200)
    assert bob is not None
    assert (bob.role, bob.email) == (Role.VIEWER, "bob@example.com")
    with pytest.raises(Stranger, match=r"^eve@evil\.com$"):
        shut.visitor(cookie(email="eve@evil.com"))
    in_parts = shut.visitor(cookie(split=40))
    assert in_parts is not None
    assert replace(in_parts, session=alice.session) == alice


@pytest.mark.usefixtures("today")
@pytest.mark.parametrize("verified", [False, "false", None, 0, "yes", [True]])
def test_an_address_that_the_provider_did_not_verify_is_nobodys(clock: Clock, verified: object) -> None:
    with pytest.raises(Stranger, match="without a verified"):
        of_provider(clock).visitor(cookie(email_verified=verified))
    everybody = of_provider(clock, viewers=People.parse("*")).visitor(cookie(email_verified=verified))
    assert everybody is not None
    assert (everybody.role, everybody.email) == (Role.VIEWER, None)


@pytest.mark.usefixtures("today")
@pytest.mark.parametrize(
    "cookies",
    [
        {},
        {OIDC_COOKIE: ""},
        {OIDC_COOKIE: "x" * 100},
        {OIDC_COOKIE: "x" * 100_000},
        cookie(secret="another one of that length"),
        cookie(origin="https://other.example.com"),
        cookie(is_logged_in=False),
        {**cookie(split=40), f"{OIDC_COOKIE}_2": "x"},
        {name: value for name, value in cookie(split=40).items() if name != f"{OIDC_COOKIE}_1"},
        {COOKIE: next(iter(cookie().values()))},
    ],
)
def test_what_streamlit_did_not_sign_for_this_address_is_nobodys(
    clock: Clock, cookies: Mapping[str, str]
) -> None:
    assert of_provider(clock).visitor(cookies) is None


@pytest.mark.usefixtures("today")
def test_a_sign_in_by_the_provider_ends_too(clock: Clock) -> None:
    shut = of_provider(clock, session_s=600)
    cookies = cookie()
    found = shut.visitor(cookies)
    assert found is not None
    clock.now += 599
    assert shut.visitor(cookies) is not None
    shut.sign_out(found)
    assert shut.visitor(cookies) is None
    clock.now += 1
    assert of_provider(clock, session_s=600).visitor(cookies) is None


@pytest.mark.usefixtures("today")
def test_a_copy_of_a_cookie_that_is_written_otherwise_is_signed_out_too(clock: Clock) -> None:
    shut, cookies = of_provider(clock), cookie()
    signed_in = shut.visitor(cookies)
    payload, _, signature = cookies[OIDC_COOKIE].rpartition(".")
    copy = {OIDC_COOKIE: f"{payload}.{signature}!!!!"}
    assert signed_in is not None
    assert shut.visitor(copy) is not None  # base64 is read past what belongs to none of it
    shut.sign_out(signed_in)
    assert shut.visitor(copy) is None


@pytest.mark.usefixtures("today")
def test_who_signs_out_ends_nobody_elses_sign_in_of_the_same_second(clock: Clock) -> None:
    shut = of_provider(clock)
    first, other = cookie(split=40), cookie(split=40, email="carol@example.com")
    assert first[OIDC_COOKIE] == other[OIDC_COOKIE]
    signed_in = shut.visitor(first)
    assert signed_in is not None
    shut.sign_out(signed_in)
    assert shut.visitor(first) is None
    assert shut.visitor(other) is not None


def test_a_door_shows_no_secret(clock: Clock) -> None:
    text = repr(of_provider(clock).settings) + repr(door(clock).settings)
    assert "the secret of the cookie" not in text
    assert "digest" not in text
    with pytest.raises(TypeError):
        pickle.dumps(OIDC)
