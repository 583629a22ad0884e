from caravan_engine.domain.scheduling.seen_prefixes import SeenPrefixes

TEXT = tuple(range(200))


def test_whole_parts_of_a_beginning_are_known_again():
    seen = SeenPrefixes()
    assert seen.num_seen("acme", TEXT) == 0
    seen.add("acme", TEXT)
    assert seen.num_seen("acme", TEXT) == 192
    assert seen.num_seen("acme", TEXT[:130] + (7,) * 70) == 128
    assert seen.num_seen("acme", TEXT[1:]) == 0


def test_tenants_see_nothing_of_each_other():
    seen = SeenPrefixes()
    seen.add("acme", TEXT)
    assert seen.num_seen("other", TEXT) == 0


def test_the_oldest_are_forgotten():
    seen = SeenPrefixes()
    seen.add("acme", TEXT)
    for number in range(20_000):
        seen.add("acme", (number,) * 64)
    assert seen.num_seen("acme", TEXT) == 0
    assert seen.num_seen("acme", (19_999,) * 64) == 64
