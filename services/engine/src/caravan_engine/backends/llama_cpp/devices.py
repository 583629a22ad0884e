"""Devices with memory of their own, as ggml knows them: GPUs, and what passes for one."""

import ctypes
from collections.abc import Collection

from llama_cpp._ggml import libggml

from caravan_engine.domain.model_facts import DeviceMemory

_GPU_TYPES = frozenset({1, 2})  # GGML_BACKEND_DEVICE_TYPE_GPU (an RPC server too) and _IGPU
_SIZE_POINTER = ctypes.POINTER(ctypes.c_size_t)

_count = libggml.ggml_backend_dev_count
_count.argtypes, _count.restype = [], ctypes.c_size_t
_get = libggml.ggml_backend_dev_get
_get.argtypes, _get.restype = [ctypes.c_size_t], ctypes.c_void_p
_type = libggml.ggml_backend_dev_type
_type.argtypes, _type.restype = [ctypes.c_void_p], ctypes.c_int
_name = libggml.ggml_backend_dev_name
_name.argtypes, _name.restype = [ctypes.c_void_p], ctypes.c_char_p
_memory = libggml.ggml_backend_dev_memory
_memory.argtypes, _memory.restype = [ctypes.c_void_p, _SIZE_POINTER, _SIZE_POINTER], None


def device_memory(types: Collection[int] = _GPU_TYPES) -> list[DeviceMemory]:
    """Returns how the memory of devices stands now; empty without any. Usable from any thread."""
    devices = (_get(index) for index in range(_count()))
    return [_measured(device) for device in devices if _type(device) in types]


def num_layers_on_devices(num_layers: int, gpu_layers: int, *, has_device: bool) -> int:
    """Returns how many of a model's layers llama.cpp puts on devices.

    Args:
        num_layers: Of the model.
        gpu_layers: llama.cpp's n_gpu_layers, which counts the output as the first of them; -1
            means all.
        has_device: Whether there is one.
    """
    if not has_device:
        return 0
    return num_layers if gpu_layers < 0 else min(max(gpu_layers - 1, 0), num_layers)


def _measured(device: int) -> DeviceMemory:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _memory(device, free, total)
    used = max(0, total.value - free.value)
    return DeviceMemory(_name(device).decode(errors="replace"), used, total.value)
