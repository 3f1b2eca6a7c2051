"""Recognition beyond one process: on a Triton server, and over archives.

The names in `__all__` are public.
"""

from seqpar_deploy.serving.meter import ServerStats
from seqpar_deploy.serving.remote import RemoteOptions, RemoteRecognizer
from seqpar_deploy.serving.standby import StandbyRecognizer

__all__ = ["RemoteOptions", "RemoteRecognizer", "ServerStats", "StandbyRecognizer"]
