"""SequencePAR from checkpoint to edge: pedestrian attributes, generated as a sequence, without PyTorch at run time."""

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Beam, Greedy, Speculative
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.images import read_image
from seqpar_deploy.recognizer import Prediction, Recognizer

__version__ = "0.2.0"

__all__ = ["Beam", "Bundle", "Greedy", "Prediction", "Recognizer", "SeqparError", "Speculative", "read_image"]
