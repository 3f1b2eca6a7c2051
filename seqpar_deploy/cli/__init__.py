"""The commands `seqpar`, `seqpar-export` and `seqpar-bench`. Heavy imports happen inside them."""
