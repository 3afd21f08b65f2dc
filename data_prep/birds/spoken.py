"""A caption said aloud by espeak-ng, in one of many voices: what a sample may hold instead of a call.

The voices of `HELD_OUT_VOICES` never speak in shards: they test whether a model heard the words or knew the throat.

Shapes: t samples of mono sound.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np

from data_prep.birds.call import RATE
from data_prep.birds.scene import Scene
from data_prep.sounds import resampled
from pipeline.errors import ConfigError, DataError
from pipeline.randomness import numpy_rng

ACCENTS = ("en-us", "en-gb", "en-gb-x-rp")
THROATS = (
    "m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "Alex", "Alicia", "Andrea", "Andy", "Annie",
    "antonio", "aunty", "benjamin", "boris", "caleb", "david", "Denis", "Diogo", "ed", "edward", "Gene",
    "grandma", "grandpa", "gustave", "Henrique", "Hugo", "iven", "Jacky", "john", "Lee", "marcelo", "Marco",
    "Mario", "max", "Michael", "miguel", "Mike", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro",
    "shelby", "travis", "victor", "zac",
)  # fmt: skip
"""espeak-ng's variants; with a dozen of them an encoder knew those and no others (docs/log.md, 2026-11-25)."""
VOICES = tuple(f"{accent}+{throat}" for accent in ACCENTS for throat in THROATS)
HELD_OUT_VOICES = ("en-us+m5", "en-us+linda", "en-gb+m8", "en-gb-x-rp+steph")  # other throats, known accents
PEAK, QUIET = 0.6, 0.02
MOST_WORDS = 10
"""Of a spoken sentence: about three seconds."""
LINE = "apt-get install -y espeak-ng"


@dataclass(frozen=True)
class Voicing:
    """How a sentence is said: espeak-ng's voice, its pitch (0 to 99) and its speed in words per minute."""

    voice: str
    pitch: int
    speed: int


def check_speaker() -> None:
    """ConfigError where there is no espeak-ng."""
    if shutil.which("espeak-ng") is None:
        raise ConfigError(f"shards.spoken needs espeak-ng, which is not installed. Type:  {LINE}")


def sayable(captions: list[str]) -> list[str]:
    """First sentences of the English captions, those short enough to be said."""
    english = [caption.split(". ")[0] for caption in captions if caption.isascii()]
    return [sentence for sentence in english if len(sentence.split()) <= MOST_WORDS]


def spoken(scene: Scene, sentences: list[str], *, held_out: bool = False) -> tuple[np.ndarray, str, Voicing]:
    """One of the sentences about a scene: float32 (t,) at `RATE`, the sentence, how it was said."""
    rng = numpy_rng(scene.seed, "bird voice", scene.index)
    sentence = sentences[int(rng.integers(len(sentences)))]
    voices = HELD_OUT_VOICES if held_out else VOICES
    voicing = Voicing(voices[int(rng.integers(len(voices)))], int(rng.integers(30, 71)), int(rng.integers(200, 261)))
    return speak(sentence, voicing), sentence, voicing


def speak(sentence: str, voicing: Voicing) -> np.ndarray:
    """float32 (t,) within [-1, 1] at `RATE`, without the silence around it.

    Raises:
        DataError: espeak-ng fails or says nothing.
    """
    import soundfile

    command = ["espeak-ng", "-v", voicing.voice, "-p", str(voicing.pitch), "-s", str(voicing.speed), "--stdout"]
    done = subprocess.run([*command, "--", sentence], capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise DataError(f"espeak-ng did not say '{sentence}': {done.stderr.decode(errors='replace').strip()[:200]}.")
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float64")
    loud = np.flatnonzero(np.abs(samples) > QUIET * np.abs(samples).max(initial=0.0))
    if not loud.size:
        raise DataError(f"espeak-ng said nothing for '{sentence}'.")
    sound = resampled(samples[loud[0] : loud[-1] + 1], rate, RATE)
    return np.asarray(sound * (PEAK / np.abs(sound).max()), dtype=np.float32)
