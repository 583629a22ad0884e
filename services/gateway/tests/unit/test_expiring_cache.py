from caravan_gateway.domain.expiring_cache import ExpiringCache


def test_a_value_is_forgotten_when_its_time_is_over(fake_clock):
    cache = ExpiringCache(10, fake_clock)
    cache.put("a", 1, 5.0)
    fake_clock.advance(4.9)
    assert cache.get("a") == 1
    fake_clock.advance(0.1)
    assert cache.get("a") is None
    assert len(cache) == 0


def test_the_least_recently_used_goes_first(fake_clock):
    cache = ExpiringCache(2, fake_clock)
    cache.put("a", 1, 5.0)
    cache.put("b", 2, 5.0)
    cache.get("a")
    cache.put("c", 3, 5.0)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_a_cache_of_no_entries_or_of_no_time_keeps_nothing(fake_clock):
    nothing = ExpiringCache(0, fake_clock)
    nothing.put("a", 1, 5.0)
    assert nothing.get("a") is None
    brief = ExpiringCache(5, fake_clock)
    brief.put("a", 1, 0.0)
    assert len(brief) == 0


def test_values_can_be_forgotten_by_what_they_are(fake_clock):
    cache = ExpiringCache(9, fake_clock)
    for number in range(4):
        cache.put(number, number, 5.0)
    cache.discard_where(lambda value: value % 2 == 0)
    cache.discard(3)
    cache.discard(99)
    assert [cache.get(number) for number in range(4)] == [None, 1, None, None]
    cache.clear()
    assert len(cache) == 0
