"""A small neural-network library in NumPy: what torch is to the torch trainer.

    buffers         memory that is allocated once
    images          layers that take images: convolution, pooling, and the way in and out
    initialisers    how a weight starts
    layers          forward and backward, one layer at a time
    losses          softmax and cross-entropy, as one
    network         layers over one flat vector of parameters
    optimizers      how that vector moves

Everything works on batches; nothing loops over samples. Buffers are allocated once, for the largest batch.
"""
