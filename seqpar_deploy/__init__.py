"""Recognise pedestrian attributes with SequencePAR bundles, without PyTorch at run time.

>>> from seqpar_deploy import Recognizer, read_image
>>> with Recognizer.from_bundle("bundles/peta") as recognizer:
...     for prediction in recognizer.predict([read_image("person.jpg")]):
...         print(prediction.attributes, prediction.scores)
"""

import logging

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Beam, Greedy, Speculative
from seqpar_deploy.errors import (
    ArchiveError,
    BackendError,
    BackendUnavailableError,
    BundleError,
    BundleFormatError,
    BundleIntegrityError,
    CalibrationError,
    CheckpointError,
    DatasetError,
    DetectorError,
    EngineError,
    ExportError,
    ImageError,
    LabelSetError,
    ParityError,
    ReaderGoneError,
    RecipeError,
    SearchError,
    SeqparError,
    ServerError,
    ServerUnavailableError,
    SinkError,
    StrategyError,
    TrainingError,
    TritonError,
    VideoError,
)
from seqpar_deploy.images import read_image
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.without import WithoutAttributes

__version__ = "0.2.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # silent until the program configures logging

__all__ = [
    "AnyRecognizer",
    "ArchiveError",
    "BackendError",
    "BackendUnavailableError",
    "Beam",
    "Bundle",
    "BundleError",
    "BundleFormatError",
    "BundleIntegrityError",
    "CalibrationError",
    "CheckpointError",
    "DatasetError",
    "DetectorError",
    "EngineError",
    "ExportError",
    "Greedy",
    "ImageError",
    "LabelSetError",
    "ParityError",
    "Prediction",
    "ReaderGoneError",
    "RecipeError",
    "Recognizer",
    "SearchError",
    "SeqparError",
    "ServerError",
    "ServerUnavailableError",
    "SinkError",
    "Speculative",
    "StrategyError",
    "TrainingError",
    "TritonError",
    "VideoError",
    "WithoutAttributes",
    "read_image",
]
