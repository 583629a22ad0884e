import base64
import json

import pytest

from caravan_policy.domain.administrator import NewKey, NewPrincipal
from caravan_policy.domain.directory import Directory
from caravan_policy.domain.errors import InvalidFieldsError, NotFoundError
from caravan_policy.domain.pages import PageRequest
from caravan_policy.domain.principals import PrincipalRef

ADMIN = PrincipalRef("default", "admin")


@pytest.fixture
def directory(store):
    return Directory(store)


@pytest.fixture
def people(administrator):
    for index in range(5):
        ref = PrincipalRef("default", f"p{index}")
        administrator.create_principal(NewPrincipal(ref, ("user",)))


def _walk(read, size):
    """All entries by pages of `size`, and how many pages there were."""
    entries, token, num_pages = [], "", 0
    while True:
        page = read(PageRequest(size, token))
        assert len(page.entries) <= size
        entries += page.entries
        num_pages += 1
        token = page.next_token
        if not token:
            return entries, num_pages


def test_pages_together_hold_each_principal_once(directory, people):
    entries, num_pages = _walk(lambda page: directory.list_principals("", page), 2)
    assert [entry.ref.name for entry in entries] == ["admin", "p0", "p1", "p2", "p3", "p4"]
    assert num_pages == 3


def test_page_goes_on_where_the_last_one_ended_though_entries_came_in_between(
    directory, people, administrator
):
    first = directory.list_principals("", PageRequest(3))
    administrator.create_principal(NewPrincipal(PrincipalRef("default", "aaa"), ("user",)))
    second = directory.list_principals("", PageRequest(3, first.next_token))
    assert [entry.ref.name for entry in second.entries] == ["p2", "p3", "p4"]


def test_keys_come_newest_first_also_within_one_moment(directory, administrator, fake_clock):
    ids = [administrator.create_key(NewKey(ADMIN)).value.key.id for _ in range(3)]
    fake_clock.advance(1)
    newest = administrator.create_key(NewKey(ADMIN)).value.key.id
    entries, _ = _walk(lambda page: directory.list_keys("", "", page), 1)
    assert entries[0].id == newest
    assert [key.id for key in entries[1:]] == sorted([key.id for key in entries[1:]], reverse=True)
    assert set(ids) < {key.id for key in entries}
    assert len(entries) == 5


def test_keys_can_be_filtered_by_principal(directory, administrator, people):
    administrator.create_key(NewKey(PrincipalRef("default", "p1")))
    page = directory.list_keys("default", "p1", PageRequest())
    assert [key.principal.name for key in page.entries] == ["p1"]


def test_roles_come_by_name(directory, administrator):
    entries, _ = _walk(directory.list_roles, 3)
    assert [role.name for role in entries] == ["admin", "operator", "readonly", "user"]


def test_unknown_tenant_has_no_principals(directory, administrator):
    assert directory.list_principals("elsewhere", PageRequest()).entries == ()


def test_page_size_has_a_default_and_a_limit():
    assert PageRequest().limit == 100
    assert PageRequest(1000).limit == 1000
    with pytest.raises(InvalidFieldsError):
        _ = PageRequest(1001).limit


def _token(*parts):
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        "!!!!",
        "é",
        "x" * 5000,
        _token("keys", "", ""),
        _token("keys", "", "", "2026-01-01T00:00:00+00:00"),
        _token("keys", "", "", "yesterday", "abcdefghijkl"),
        _token("keys", "", "", "0001-01-01T00:00:00+14:00", "abcdefghijkl"),
        _token("keys", "", "", "2026-01-01T00:00:00+00:00", "' OR 1=1"),
        _token("keys", "", "alice", "2026-01-01T00:00:00+00:00", "abcdefghijkl"),
        _token("roles", "admin"),
        base64.urlsafe_b64encode(b'{"a": 1}').decode(),
        base64.urlsafe_b64encode(b"[1, 2, 3, 4, 5]").decode(),
        base64.urlsafe_b64encode(b"[" * 600).decode(),
    ],
)
def test_token_that_is_not_of_this_list_is_refused(directory, token):
    with pytest.raises(InvalidFieldsError) as caught:
        directory.list_keys("", "", PageRequest(token=token))
    assert [violation.field for violation in caught.value.field_violations] == ["page_token"]


@pytest.mark.parametrize("parts", [("\ud800", "x"), ("a",), ("default", "A B")])
def test_token_with_impossible_names_is_refused(directory, parts):
    with pytest.raises(InvalidFieldsError):
        directory.list_principals("", PageRequest(token=_token("principals", "", *parts)))
    with pytest.raises(InvalidFieldsError):
        directory.list_roles(PageRequest(token=_token("roles", "\ud800")))


def test_malformed_filter_is_refused(directory):
    with pytest.raises(InvalidFieldsError) as caught:
        directory.list_keys("A", "B", PageRequest())
    assert [violation.field for violation in caught.value.field_violations] == [
        "tenant",
        "principal",
    ]


def test_principal_is_found_or_not(directory, administrator):
    assert directory.get_principal(ADMIN).roles == ("admin",)
    with pytest.raises(NotFoundError):
        directory.get_principal(PrincipalRef("default", "nobody"))
    with pytest.raises(InvalidFieldsError):
        directory.get_principal(PrincipalRef("default", ""))
