"""Signals come in pairs, from schedulers and from people who do not want to wait."""

import signal

import pytest

from transformer_jax.devices import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_sent_twice_at_once_counts_once(number):
    with signals.deferred_signals() as received:
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert received() == number


def test_signal_repeated_later_ends_at_once(monkeypatch, request):
    monkeypatch.setattr(signals, "DOUBLE_SIGNAL_WINDOW", -1.0)
    # A job in the background of a shell ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt), signals.deferred_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    with signals.deferred_signals() as received:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # a scheduler is never in such a hurry
        assert received() == signal.SIGTERM
