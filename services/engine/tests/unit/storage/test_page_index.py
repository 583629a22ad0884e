from caravan_engine.storage.page_index import PageIndex, StoredPage


def page(name, parent="root", num_bytes=10, protected=False):
    return StoredPage(name.encode(), parent.encode(), num_bytes, protected)


def index_of(*pages, budget=100):
    index = PageIndex(budget)
    for each in pages:
        index.add(each)
    return index


def victims(index, *, spares_protected=False):
    names = []
    while (victim := index.victim(spares_protected=spares_protected)) is not None:
        names.append(victim.key.decode())
        index.remove(victim)
    return names


def test_the_page_unused_longest_goes_first():
    a, b, c = page("a"), page("b"), page("c")
    index = index_of(a, b, c)
    index.use(a)

    assert victims(index) == ["b", "c", "a"]


def test_a_page_goes_after_those_that_continue_it():
    index = index_of(page("a"), page("b", "a"), page("c", "b"), page("d"))

    assert victims(index) == ["c", "b", "a", "d"]


def test_protected_pages_go_last_and_only_for_their_like():
    index = index_of(page("a", protected=True), page("b"), page("c", protected=True))

    assert victims(index, spares_protected=True) == ["b"]
    assert victims(index) == ["a", "c"]


def test_a_page_stays_while_a_protected_one_continues_it():
    index = index_of(page("a"), page("b", "a", protected=True))

    assert victims(index, spares_protected=True) == []


def test_pages_that_are_read_or_spared_stay():
    a, b = page("a"), page("b")
    a.num_readers = 1
    index = index_of(a, b)

    assert index.victim(spares_protected=False, spared=[b"b"]) is None
    assert index.victim(spares_protected=False) is b


def test_bytes_are_counted_through_every_change():
    a, b = page("a", num_bytes=60), page("b", num_bytes=40)
    index = index_of(a, b)

    assert (len(index), index.num_bytes) == (2, 100)
    assert not index.exceeds()
    assert index.exceeds(1)
    index.protect(a, protected=True)
    index.protect(a, protected=True)
    assert index.could_hold(40, protected=False)
    assert not index.could_hold(41, protected=False)
    assert index.could_hold(100, protected=True)
    index.protect(a, protected=False)
    assert index.could_hold(100, protected=False)
    index.remove(a)
    index.remove(a)
    assert (len(index), index.num_bytes) == (1, 40)


def test_a_page_that_took_anothers_place_is_not_removed_for_it():
    old, new = page("a"), page("a", num_bytes=7)
    index = index_of(old)
    index.remove(old)
    index.add(new)
    index.remove(old)

    assert index.get(b"a") is new
    assert index.num_bytes == 7
