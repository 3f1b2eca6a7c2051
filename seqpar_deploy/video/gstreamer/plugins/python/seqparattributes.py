"""The file that GStreamer's plugin loader for Python finds: GST_PLUGIN_PATH names the folder above this one."""

from __future__ import annotations

import sys

try:
    from gi.repository import Gst

    from seqpar_deploy.video.gstreamer.element import NAME, SeqparAttributes
except ImportError as error:
    # The loader would print a traceback. One line says what to do.
    print(f"seqparattributes cannot be loaded: {error}; set the lines of seqpar gst --plugin-path", file=sys.stderr)
else:
    __gstelementfactory__ = (NAME, Gst.Rank.NONE, SeqparAttributes)
