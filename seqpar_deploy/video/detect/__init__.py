"""Detectors: the built-in one, detectors exported to ONNX, and boxes of another program.

Each implements `seqpar_deploy.video.types.Detector`. Any object with its two methods does.
"""
