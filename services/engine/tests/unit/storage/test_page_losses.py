import pytest

from caravan_engine.storage.page_losses import LossCause, PageLosses


def test_losses_are_counted_by_cause():
    losses = PageLosses()
    for cause in (LossCause.DAMAGED, LossCause.DAMAGED, LossCause.DISPLACED):
        losses.count(cause)

    assert losses.counts == {LossCause.DAMAGED: 2, LossCause.DISPLACED: 1}


def test_each_cause_is_logged_once_a_minute(caplog):
    now = [0.0]
    losses = PageLosses(clock=lambda: now[0])
    for at in (0.0, 1.0, 59.9, 60.0, 60.1):
        now[0] = at
        losses.report(LossCause.DAMAGED, "why")
    losses.report(LossCause.FOREIGN, "why")

    assert [record.cause for record in caplog.records] == ["damaged", "damaged", "foreign"]


@pytest.mark.parametrize("cause", [LossCause.DISPLACED, LossCause.FORGOTTEN, LossCause.QUEUE_FULL])
def test_what_is_as_it_should_be_is_not_logged(cause, caplog):
    PageLosses().report(cause, "why")

    assert not caplog.records
