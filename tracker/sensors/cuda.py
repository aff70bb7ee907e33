"""What CUDA shows this process, asked of the driver's library where a framework has loaded and initialised it."""

from __future__ import annotations

import ctypes
import os
import uuid
from typing import Final

LIBRARY: Final = "libcuda.so.1"
_SUCCESS: Final = 0
_UUID_BYTES: Final = 16


def shown_uuids(library: str = LIBRARY) -> tuple[str, ...] | None:
    """The UUIDs of the devices that CUDA shows, in its order, without "GPU-" or "MIG-"; None where it cannot be asked.

    The library is neither loaded nor initialised here, and no context is made: before cuInit, and in a child forked
    after it, cuDeviceGetCount fails. It is asked rather than the framework, because one answer serves all of
    them, and an attribute of a framework may import or initialise something.

    Source: CUDA Driver API, "Device Management"; cuDeviceGetUuid_v2 names MIG devices, cuDeviceGetUuid their boards.
    """
    if not hasattr(os, "RTLD_NOLOAD"):
        return None
    try:
        cuda = ctypes.CDLL(library, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        get_uuid = getattr(cuda, "cuDeviceGetUuid_v2", None) or cuda.cuDeviceGetUuid
        count, device = ctypes.c_int(), ctypes.c_int()
        if cuda.cuDeviceGetCount(ctypes.byref(count)) != _SUCCESS:
            return None
        found = []
        for ordinal in range(count.value):
            raw = ctypes.create_string_buffer(_UUID_BYTES)
            if cuda.cuDeviceGet(ctypes.byref(device), ordinal) != _SUCCESS or get_uuid(raw, device) != _SUCCESS:
                return None
            found.append(str(uuid.UUID(bytes=raw.raw)))
    except (OSError, AttributeError):  # not loaded, or something else of that name
        return None
    return tuple(found)
