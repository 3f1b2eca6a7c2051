"""The parity gate, which checks that a bundle reproduces its checkpoint. It needs no torch, so it runs on the edge."""
