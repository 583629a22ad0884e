import pytest

from caravan_gateway.domain.poison import Passenger, PoisonRules, PoisonWatch, Verdict


class Bus:
    """Passengers on workers that die; each death has its own worker."""

    def __init__(self, rules):
        self.watch = PoisonWatch(rules)
        self.num_deaths = 0

    def death(self, now_s, *passengers, waiting=()):
        self.num_deaths += 1
        worker = f"w{self.num_deaths}"
        for passenger in (*passengers, *waiting):
            self.watch.board(passenger, worker, is_computed=passenger not in waiting)
        for passenger in (*passengers, *waiting):
            self.watch.died(worker, now_s)
            self.watch.leave(passenger, worker)


@pytest.fixture
def bus():
    return Bus(PoisonRules(num_deaths=2, window_s=60.0))


def test_who_alone_was_at_two_deaths_within_the_window_is_poison(bus):
    culprit, early, late = Passenger(), Passenger(), Passenger()
    bus.death(100.0, culprit, early)
    assert {each.verdict for each in (culprit, early)} == {Verdict.CLEAR}
    bus.death(160.0, culprit, late)
    assert culprit.verdict is Verdict.POISON
    assert {each.verdict for each in (early, late)} == {Verdict.CLEAR}


def test_deaths_further_apart_are_no_coincidence(bus):
    passenger = Passenger()
    for now_s in (100.0, 160.1, 220.2):
        bus.death(now_s, passenger)
        assert passenger.verdict is Verdict.CLEAR


def test_a_worker_that_cannot_be_reached_again_and_again_died_once(bus):
    passenger = Passenger()
    for now_s in range(10):
        bus.watch.board(passenger, "w", is_computed=False)
        bus.watch.died("w", float(now_s))
        bus.watch.leave(passenger, "w")
        assert passenger.verdict is Verdict.CLEAR
    assert len(passenger.deaths) == 1


def test_a_suspect_that_finds_the_dead_worker_again_stays_suspect(bus):
    pair = [Passenger(), Passenger()]
    bus.death(100.0, *pair)
    bus.death(101.0, *pair)
    bus.watch.begin_trial(pair[0])
    bus.watch.board(pair[0], "w2", is_computed=False)  # its host hasn't said yet that it died
    bus.watch.died("w2", 101.1)
    assert {each.verdict for each in pair} == {Verdict.SUSPECT}


def test_a_death_counts_once_for_each_who_was_aboard(bus):
    passengers = [Passenger() for _ in range(5)]
    bus.death(100.0, *passengers)
    assert all(len(each.deaths) == 1 for each in passengers)


def test_companions_at_both_deaths_are_suspects_and_a_trial_tells_them_apart(bus):
    culprit, *others = passengers = [Passenger() for _ in range(4)]
    bus.death(100.0, *passengers)
    bus.death(101.0, *passengers)
    assert {each.verdict for each in passengers} == {Verdict.SUSPECT}
    for passed in others[:2]:
        bus.watch.begin_trial(passed)
        bus.watch.end_trial(passed, 101.5)
    bus.watch.begin_trial(culprit)
    bus.death(102.0, *others[:2], waiting=[culprit])  # its word did not arrive any more
    assert culprit.verdict is Verdict.POISON
    assert {each.verdict for each in others[:2]} == {Verdict.CLEAR}
    assert others[2].verdict is Verdict.SUSPECT


def test_a_passed_trial_explains_earlier_deaths(bus):
    pair = first, second = Passenger(), Passenger()
    bus.death(100.0, *pair)
    bus.death(101.0, *pair)
    bus.watch.begin_trial(first)
    bus.watch.end_trial(first, 101.5)
    bus.death(102.0, first)  # the other one still waits for its trial
    assert first.verdict is Verdict.CLEAR
    bus.death(103.0, first)
    assert first.verdict is Verdict.POISON
    assert second.verdict is Verdict.SUSPECT


def test_who_kills_before_its_computation_is_told_is_found_too(bus):
    culprit, waiting = Passenger(), Passenger()
    bus.death(100.0, waiting=[culprit])
    bus.death(101.0, waiting=[culprit])
    assert culprit.verdict is Verdict.CLEAR  # it may have waited in the queue
    bus.death(102.0, waiting=[culprit, waiting])
    assert culprit.verdict is Verdict.POISON
    assert waiting.verdict is Verdict.CLEAR


def test_whose_word_was_lost_is_as_suspect_as_those_in_the_batch(bus):
    innocent, culprit = Passenger(), Passenger()
    bus.death(100.0, innocent, culprit)
    bus.death(101.0, innocent, waiting=[culprit])
    assert {innocent.verdict, culprit.verdict} == {Verdict.SUSPECT}
    bus.watch.begin_trial(innocent)
    bus.watch.end_trial(innocent, 101.5)
    bus.watch.begin_trial(culprit)
    bus.death(102.0, innocent, culprit)
    assert culprit.verdict is Verdict.POISON
    assert innocent.verdict is Verdict.CLEAR


def test_company_protects_nobody_for_ever(bus):
    pair = [Passenger(), Passenger()]
    for now_s in range(6):
        bus.death(float(now_s), *pair)
    assert {each.verdict for each in pair} == {Verdict.POISON}


def test_who_left_before_the_death_was_not_there(bus):
    gone = Passenger()
    bus.watch.board(gone, "w", is_computed=True)
    bus.watch.leave(gone, "w")
    bus.watch.died("w", 1.0)
    assert gone.deaths == []
    assert len(bus.watch) == 0


def test_without_a_window_nobody_is_suspected():
    bus, passenger = Bus(PoisonRules(window_s=0.0)), Passenger()
    for _ in range(9):
        bus.death(1.0, passenger)
    assert passenger.verdict is Verdict.CLEAR
    assert len(bus.watch) == 0
