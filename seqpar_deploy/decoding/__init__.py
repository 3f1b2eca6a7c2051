"""Decoding strategies: greedy, beam search and speculative. They are plain NumPy code on the backend protocol."""

from seqpar_deploy.decoding.base import Generation, Strategy
from seqpar_deploy.decoding.beam import Beam
from seqpar_deploy.decoding.drafts import DraftHead
from seqpar_deploy.decoding.greedy import Greedy
from seqpar_deploy.decoding.speculative import Speculative

__all__ = ["Beam", "DraftHead", "Generation", "Greedy", "Speculative", "Strategy"]
