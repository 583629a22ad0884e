"""What ggml says of the devices of this machine, and which layers llama.cpp puts on them."""

import pytest

from caravan_engine.backends.llama_cpp.devices import device_memory, num_layers_on_devices

_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU


def test_the_memory_of_a_device_is_measured():
    [cpu] = device_memory({_CPU})  # the one that every machine has
    assert cpu.name == "CPU"
    assert 0 <= cpu.used_bytes <= cpu.total_bytes
    assert cpu.total_bytes > 2**20


def test_the_memory_of_the_machine_is_not_that_of_a_device():
    assert "CPU" not in [device.name for device in device_memory()]


@pytest.mark.parametrize(
    ("gpu_layers", "num_on_devices"), [(-1, 8), (0, 0), (1, 0), (3, 2), (9, 8), (99, 8)]
)
def test_the_output_is_the_first_that_goes_to_a_device(gpu_layers, num_on_devices):
    assert num_layers_on_devices(8, gpu_layers, has_device=True) == num_on_devices
    assert num_layers_on_devices(8, gpu_layers, has_device=False) == 0
