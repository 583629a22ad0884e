"""Finding stored beginnings of texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.domain.paging.page_image import root_key
from caravan_engine.domain.paging.prefix_tree import PrefixTree, common_length

ACME, OTHER = root_key("model", "acme"), root_key("model", "other")


def store(tree, root, tokens):
    """Files a text the plain way: each page that isn't there is added and marked as on disk."""
    node = tree.root(root)
    for at in range(0, len(tokens), tree.page_size):
        part = tokens[at : at + tree.page_size]
        found, length = node.find(part)
        if found is None or length < len(part) or len(found.tokens) != len(part):
            found = node.add(part)
        found.is_on_disk = True
        node = found


def found(tree, root, tokens):
    matches = tree.match(root, tokens)
    return matches[-1].end if matches else 0


TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=14).map(tuple), max_size=12)


@given(TEXTS, st.lists(st.integers(0, 2), max_size=14).map(tuple))
def test_the_longest_stored_beginning_is_found_but_for_what_lies_in_later_pages(texts, wanted):
    tree = PrefixTree(4)
    for text in texts:
        store(tree, ACME, text)
    longest = max((common_length(text, wanted) for text in texts), default=0)
    assert found(tree, ACME, wanted) == longest


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_common_lengths(left, right):
    length = common_length(left, right)
    assert left[:length] == right[:length]
    assert length == min(len(left), len(right)) or left[length] != right[length]


def test_another_tenants_texts_are_not_found():
    tree = PrefixTree(4)
    store(tree, ACME, (1, 2, 3, 4, 5))
    assert found(tree, ACME, (1, 2, 3, 4, 5)) == 5
    assert found(tree, OTHER, (1, 2, 3, 4, 5)) == 0


def test_keys_name_the_whole_text_and_its_tenant():
    tree = PrefixTree(2)
    for root in (ACME, OTHER):
        for text in ((1, 2, 3, 4), (9, 2, 3, 4), (1, 2, 3)):
            store(tree, root, text)
    keys = [node.info.key for node in tree]
    assert len(set(keys)) == len(keys) == 10
    assert all(node.info.is_genuine for node in tree)


def test_what_lies_nowhere_ends_the_search():
    tree = PrefixTree(2)
    store(tree, ACME, (1, 2, 3, 4))
    next(iter(tree)).is_on_disk = False
    assert found(tree, ACME, (1, 2, 3, 4)) == 0


def test_wholes_are_of_use_to_texts_that_go_on_from_all_of_them_only():
    tree = PrefixTree(1000, can_cut=False)
    for text in ((1, 2), (1, 2, 3, 4), (1, 2, 3, 5, 6)):
        store(tree, ACME, text)
    assert found(tree, ACME, (1, 2, 3, 4, 9)) == 4
    assert found(tree, ACME, (1, 2, 3)) == 2
    assert found(tree, ACME, (1,)) == 0


def test_a_discarded_page_takes_what_follows_with_it():
    tree = PrefixTree(2)
    store(tree, ACME, (1, 2, 3, 4))
    store(tree, ACME, (1, 2, 7))
    tree.discard(next(iter(tree)))
    assert list(tree) == []
    assert tree.known_root(ACME) is None


@pytest.mark.parametrize("size", [1, 100, 3000])
def test_many_children_are_told_apart(size):
    tree = PrefixTree(4)
    for number in range(size):
        store(tree, ACME, (7, 7, number // 50, number % 50))
    assert found(tree, ACME, (7, 7, (size - 1) // 50, (size - 1) % 50)) == 4
    assert found(tree, ACME, (7, 7, 9999)) == 2
