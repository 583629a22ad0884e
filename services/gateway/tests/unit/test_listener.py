import pytest

from caravan_gateway.domain.errors import InsecureListenerError
from caravan_gateway.domain.listener import require_safe_listener


@pytest.mark.parametrize(
    "address", ["127.0.0.1:50051", "127.9.9.9:1", "localhost:50051", "[::1]:50051"]
)
def test_loopback_may_be_plaintext(address):
    require_safe_listener(address, encrypted=False, allow_plaintext=False)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:1", "gateway:50051", "localhost.evil:1"]
)
def test_anything_else_needs_tls_or_a_setting(address):
    with pytest.raises(InsecureListenerError):
        require_safe_listener(address, encrypted=False, allow_plaintext=False)
    require_safe_listener(address, encrypted=True, allow_plaintext=False)
    require_safe_listener(address, encrypted=False, allow_plaintext=True)
