"""Find the stage and the node at which a bundle's outputs start to differ from its checkpoint's."""
