"""Where boxes come from: the built-in detector, any detector exported to ONNX, or something outside.

Each is a `seqpar_deploy.video.types.Detector`; so is whatever else has its two methods.
"""
