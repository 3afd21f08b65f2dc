"""The stages, in the order the data flows."""

from stages.conditioning.torchaudio_on_cpu import install

install()
