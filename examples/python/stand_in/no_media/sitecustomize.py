"""Python imports this by itself when its folder is on PYTHONPATH: rooms without media,
and no turn detector, whose model would have to be downloaded.

A room is LiveKit's own mock, one for each job, which connects at once and is left by the
caller after CALL_SECONDS (default: never).
"""

import asyncio
import os
import sys
import types

# Not in helpers such as the resource tracker, which start without the worker's packages.
if "livekit" not in sys.modules:
    from livekit import rtc
    from livekit.agents.ipc import mock_room

    make_mock = mock_room.create_mock_room.__wrapped__

    real = rtc.Room

    def room(*_args: object, **_kwargs: object) -> object:
        rtc.Room = real  # The mock is made after it.
        silent, events = make_mock(), rtc.EventEmitter()
        rtc.Room = room
        silent.on, silent.off, silent.emit = events.on, events.off, events.emit
        silent.name, silent.isconnected.return_value = "", False

        async def connect(*_args: object, **_kwargs: object) -> None:
            silent.isconnected.return_value = True
            if seconds := os.environ.get("CALL_SECONDS"):
                asyncio.get_running_loop().call_later(
                    float(seconds), events.emit, "disconnected", None
                )

        silent.connect = connect
        return silent

    rtc.Room = room

    detector = types.ModuleType("livekit.plugins.turn_detector.multilingual")
    detector.MultilingualModel = lambda: "vad"
    sys.modules[detector.__name__] = detector
